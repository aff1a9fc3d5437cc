"""What the options of ``deltamem eval`` mean: the suite, the jobs and their data, the seeds and the shard."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from deltamem_lab.loading import Placing
    from deltamem_lab.runner import Job
    from deltamem_lab.suites import Suite


@dataclass(frozen=True)
class Sources:
    """Where the tasks' data comes from, by task: files, revisions of the Hub's, and the tasks' options."""

    files: dict[str, Path]
    revisions: dict[str, str]
    options: dict[str, dict[str, str]]


def choose_suite(suite: str, tasks: Sequence[str], protocol: str, *, has_model: bool) -> "Suite":
    """The suite of that name, or one of the tasks.

    Raises:
        typer.BadParameter: there is no such suite, or the options exclude one another.
    """
    from deltamem_lab.suites import Suite, SuiteTask, find_suite

    if bool(suite) == bool(tasks):
        raise typer.BadParameter("Give a --suite, or one or more of --task.")
    if tasks:
        return Suite(tuple(SuiteTask(name, protocol) for name in dict.fromkeys(tasks)), embedded=not has_model)
    try:
        found = find_suite(suite)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if protocol:
        raise typer.BadParameter("A suite has its own protocols; give --protocol with --task.")
    if not found.embedded and not has_model:
        raise typer.BadParameter(f"The suite {suite} needs a --model.")
    # What a suite trains is trained on the embedded backbone.
    return replace(found, trainings=(), seconds=0) if has_model else found


def read_placing(dtype: str, attention: str, device_map: str, *, has_model: bool) -> "Placing":
    """How a model is loaded.

    Raises:
        typer.BadParameter: there is no such type of numbers, or no model to load.
    """
    from deltamem_lab.loading import DTYPES, Placing

    if not has_model and (dtype or attention or device_map):
        raise typer.BadParameter(
            "--dtype, --attention and --device-map are of a --model; the embedded one has its own."
        )
    if dtype and dtype not in DTYPES:
        raise typer.BadParameter(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}.")
    return Placing(dtype, attention, device_map)


def read_sources(
    data: Sequence[str], revisions: Sequence[str], options: Sequence[str], tasks: Sequence[str]
) -> Sources:
    """The values of ``--data``, ``--revision`` and ``--option``."""
    files = {name: Path(place) for name, place in _by_task("--data", "FILE", data, tasks).items()}
    return Sources(files, _by_task("--revision", "REVISION", revisions, tasks), _options(options, tasks))


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
    suite: "Suite", sources: Sources, seeds: Sequence[int], limit: int | None, questions: int | None, *, skip: bool
) -> tuple[list["Job"], dict[str, str]]:
    """The jobs, and if ``skip`` the tasks whose data is not here, each with the reason."""
    from deltamem_lab.runner import Job
    from deltamem_lab.tasks.registry import build_task, pick_protocol
    from deltamem_lab.tasks.rows import BadDataError

    jobs: list[Job] = []
    missing: dict[str, str] = {}
    for one in suite.tasks:
        for seed in seeds:
            try:
                built = build_task(
                    one.task,
                    sources.files.get(one.task),
                    revision=sources.revisions.get(one.task),
                    seed=seed,
                    options=sources.options.get(one.task),
                )
            except (OSError, ImportError, BadDataError) as error:
                if not skip or one.task in sources.files:
                    raise
                missing[one.task] = " ".join(str(error).split())
                continue
            jobs.append(Job(built, pick_protocol(built, one.protocol), seed, limit, questions))
    named = [f"{job.task.name}, protocol {job.protocol}" for job in jobs if job.seed == seeds[0]]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"Several tasks are named {'; '.join(twice)}, and their records could not be told apart.")
    return jobs, missing
