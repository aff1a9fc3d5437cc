"""What the options of ``deltamem eval`` mean: the suite, the jobs and their data, the seeds and the shard."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from deltamem.models.catalog import EMBEDDED, MODELS
from deltamem_lab.names import check_harness_tasks, check_method, check_suite, check_task

if TYPE_CHECKING:
    from deltamem_lab.commands.evaluation.recipe import EvalRecipe, TaskSection
    from deltamem_lab.runner import Job
    from deltamem_lab.suites import Suite


# The keys of a recipe that only methods on tasks have a use for.
METHOD_KEYS = ("window", "turns", "unit", "compressor", "product")
# The options whose names do not follow from the recipe's keys.
_OPTIONS = {"methods": "--method", "static_adapters": "--static-adapter", "train": "--no-train"}


def check_names(recipe: "EvalRecipe") -> None:
    """Refuses a suite, task, protocol or method that there is not, before anything is imported that takes seconds.

    Raises:
        typer.BadParameter: there is no such thing.
    """
    given = recipe.adapters if isinstance(recipe.adapters, dict) else [one.partition("=")[0] for one in recipe.adapters]
    known = MODELS.get(recipe.model.name or EMBEDDED)
    try:
        if recipe.suite:
            check_suite(recipe.suite)
        for name, section in recipe.tasks.items():
            check_task(name, section.protocol)
        for name in recipe.methods:
            check_method(name, {*given, *(known.shipped() if known else ())})
        if recipe.harness:
            check_harness_tasks(recipe.harness)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def choose_suite(suite: str, tasks: "Mapping[str, TaskSection]", *, has_model: bool) -> "Suite":
    """The suite of that name, or one of the tasks.

    Raises:
        typer.BadParameter: there is no such suite, or the options exclude one another.
    """
    from deltamem_lab.suites import Suite, SuiteTask, find_suite

    if not suite and not tasks:
        raise typer.BadParameter("Give a --suite, or one or more of --task.")
    if not suite:
        return Suite(tuple(SuiteTask(name, one.protocol) for name, one in tasks.items()), embedded=not has_model)
    try:
        found = find_suite(suite)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if other := sorted(tasks.keys() - {one.task for one in found.tasks}):
        raise typer.BadParameter(f"The suite {suite} has no task {', '.join(other)}. Give a --suite, or --task.")
    if any(one.protocol for one in tasks.values()):
        raise typer.BadParameter("A suite has its own protocols; give --protocol with --task.")
    if not found.embedded and not has_model:
        raise typer.BadParameter(f"The suite {suite} needs a --model.")
    # What a suite trains is trained on the embedded backbone.
    return replace(found, trainings=(), seconds=0) if has_model else found


def refuse(recipe: "EvalRecipe", keys: Sequence[str], given: Mapping[str, object], where: str) -> None:
    """Refuses what has no effect there: keys of the recipe that are not as by default, and options that were given.

    Raises:
        typer.BadParameter: one of them was given.
    """
    fresh = type(recipe)()
    names = [_OPTIONS.get(key, f"--{key}") for key in keys if getattr(recipe, key) != getattr(fresh, key)]
    if names := [*names, *(option for option, value in given.items() if value)]:
        raise typer.BadParameter(f"{', '.join(names)} cannot be used with {where}.")


def check_placing(recipe: "EvalRecipe") -> None:
    """Refuses to be told how a model is loaded where there is none to load.

    Raises:
        typer.BadParameter: it was told.
    """
    placing = (recipe.model.dtype, recipe.model.attention, recipe.model.device_map)
    if not recipe.has_model and any(one is not None for one in placing):
        raise typer.BadParameter(
            "--dtype, --attention and --device-map go with a --model; the embedded model has its own settings."
        )


def with_sources(
    recipe: "EvalRecipe", data: Sequence[str], revisions: Sequence[str], options: Sequence[str]
) -> "EvalRecipe":
    """The recipe with the values of ``--data``, ``--revision`` and ``--option`` in the sections of its tasks."""
    from deltamem_lab.commands.evaluation.recipe import TaskSection
    from deltamem_lab.suites import find_suite

    if not (data or revisions or options):
        return recipe
    names = [one.task for one in find_suite(recipe.suite).tasks] if recipe.suite else recipe.harness or [*recipe.tasks]
    tasks = dict(recipe.tasks)
    for name, more in read_sources(data, revisions, options, names).items():
        before = tasks.get(name, TaskSection())
        changed = {**more, "options": {**before.options, **more.get("options", {})}}
        tasks[name] = TaskSection.model_validate({**before.model_dump(), **changed})
    return recipe.model_copy(update={"tasks": tasks})


def read_sources(
    data: Sequence[str], revisions: Sequence[str], options: Sequence[str], tasks: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The values of ``--data``, ``--revision`` and ``--option``, as a recipe has them in the section of each task."""
    found: dict[str, dict[str, Any]] = {}
    given: dict[str, Mapping[str, Any]] = {
        "data": _by_task("--data", "FILE", data, tasks),
        "revision": _by_task("--revision", "REVISION", revisions, tasks),
        "options": _options(options, tasks),
    }
    for key, values in given.items():
        for task, value in values.items():
            found.setdefault(task, {})[key] = value
    return found


def _by_task(option: str, what: str, given: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """The values of an option by task; of a single task the name may be left out."""
    found: dict[str, str] = {}
    for one in given:
        name, named, value = one.partition("=")
        if not named and len(set(tasks)) == 1:
            name, value = tasks[0], one
        elif not named or name not in tasks:
            raise typer.BadParameter(f"{option} {one}: write TASK={what} with one of {', '.join(tasks)}.")
        found[name] = value
    return found


def _options(given: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """The values of ``--option`` by task: of the task that it names, or of all that have such an option."""
    from deltamem_lab.tasks.options import known_options
    from deltamem_lab.tasks.registry import find_task

    found: dict[str, dict[str, str]] = {}
    known = {task: known_options(find_task(task)) for task in tasks} if given else {}
    for one in given:
        name, named, value = one.partition("=")
        task, of_one, option = name.rpartition(".")
        places = [task] if of_one else [place for place, options in known.items() if name in options]
        if not named or not places or any(place not in tasks for place in places):
            every = ", ".join(f"{place}.{option}" for place, options in known.items() for option in sorted(options))
            raise typer.BadParameter(
                f"--option {one}: write NAME=VALUE or TASK.NAME=VALUE; there are: {every or 'none'}."
            )
        for place in places:
            found.setdefault(place, {})[option] = value
    return found


def read_seeds(text: str) -> list[int]:
    """The numbers of ``--seeds``, each once."""
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"--seeds {text!r}: give whole numbers with commas between them.") from None


def read_shard(text: str) -> tuple[int, int]:
    """This process's number, from 0, and how many there are: as given, or as the launcher says."""
    if not text:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"--shard {text!r}: write i/n with i from 1 to n.")
    return int(number) - 1, int(count)


def make_jobs(
    suite: "Suite", recipe: "EvalRecipe", limit: int | None, *, skip: bool
) -> tuple[list["Job"], dict[str, str]]:
    """The jobs, and if ``skip`` the tasks whose data is not here, each with the reason."""
    from deltamem_lab.commands.evaluation.recipe import TaskSection
    from deltamem_lab.runner import Job
    from deltamem_lab.tasks.data import BadDataError
    from deltamem_lab.tasks.registry import build_task, pick_protocol

    seeds = list(dict.fromkeys(recipe.seeds))
    jobs: list[Job] = []
    missing: dict[str, str] = {}
    for one in suite.tasks:
        said = recipe.tasks.get(one.task, TaskSection())
        for seed in seeds:
            try:
                built = build_task(one.task, said.data, revision=said.revision, seed=seed, options=said.options)
            except (OSError, ImportError, BadDataError) as error:
                if not skip or said.data is not None:
                    raise
                missing[one.task] = " ".join(str(error).split())
                continue
            jobs.append(Job(built, pick_protocol(built, one.protocol), seed, limit, recipe.questions))
    named = [f"{job.task.name}, protocol {job.protocol}" for job in jobs if job.seed == seeds[0]]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"Several tasks are named {'; '.join(twice)}, and their records could not be told apart.")
    return jobs, missing
