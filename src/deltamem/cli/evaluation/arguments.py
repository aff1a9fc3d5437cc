"""What the options of ``deltamem eval`` mean: the suite, the jobs and their data, the seeds and the shard."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from deltamem.eval.registry import Suite
    from deltamem.eval.runner import Job


@dataclass(frozen=True)
class Sources:
    """Where the tasks' data comes from: files by task, a revision of the Hub's, and the tasks' options."""

    files: dict[str, Path]
    revision: str | None
    options: dict[str, str]


def choose_suite(suite: str, tasks: Sequence[str], protocol: str, *, has_model: bool) -> "Suite":
    """The suite of that name, or one of the tasks.

    Raises:
        typer.BadParameter: there is no such suite, or the options exclude one another.
    """
    from deltamem.eval.registry import SUITES, Suite, SuiteTask

    if bool(suite) == bool(tasks):
        raise typer.BadParameter("Give a --suite, or one or more of --task.")
    if tasks:
        return Suite(tuple(SuiteTask(name, protocol) for name in tasks), embedded=not has_model)
    if suite not in SUITES:
        raise typer.BadParameter(f"There is no suite {suite!r}; there are: {', '.join(SUITES)}.")
    if protocol:
        raise typer.BadParameter("A suite has its own protocols; give --protocol with --task.")
    if not SUITES[suite].embedded and not has_model:
        raise typer.BadParameter(f"The suite {suite} needs a --model.")
    # What a suite trains is trained on the embedded backbone.
    return replace(SUITES[suite], trainings="", seconds=0) if has_model else SUITES[suite]


def read_data(given: Sequence[str], tasks: Sequence[str]) -> dict[str, Path]:
    """The files of ``--data`` by task."""
    places: dict[str, Path] = {}
    for one in given:
        name, found, place = one.partition("=")
        if not found and len(set(tasks)) == 1:
            name, place = tasks[0], one
        elif name not in tasks:
            raise typer.BadParameter(f"--data {one}: write TASK=FILE with one of {', '.join(tasks)}.")
        places[name] = Path(place)
    return places


def read_options(given: Sequence[str]) -> dict[str, str]:
    """The values of ``--option`` by name."""
    pairs = [one.partition("=") for one in given]
    if wrong := [name for name, found, _ in pairs if not found]:
        raise typer.BadParameter(f"--option {wrong[0]}: write NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def read_seeds(text: str) -> list[int]:
    """The numbers of ``--seeds``."""
    try:
        return [int(seed) for seed in text.split(",")]
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
    suite: "Suite", sources: Sources, seeds: Sequence[int], limit: int | None, *, skip: bool
) -> tuple[list["Job"], dict[str, str]]:
    """The jobs, and if ``skip`` the tasks whose data is not here, each with the reason."""
    from deltamem.eval.registry import build_task, pick_protocol
    from deltamem.eval.runner import Job
    from deltamem.eval.tasks.rows import BadDataError

    jobs: list[Job] = []
    missing: dict[str, str] = {}
    for one in suite.tasks:
        for seed in seeds:
            try:
                built = build_task(
                    one.task,
                    sources.files.get(one.task),
                    revision=sources.revision,
                    seed=seed,
                    options=sources.options,
                )
            except (OSError, ImportError, BadDataError) as error:
                if not skip or one.task in sources.files:
                    raise
                missing[one.task] = " ".join(str(error).split())
                continue
            jobs.append(Job(built, pick_protocol(built, one.protocol), seed, limit))
    return jobs, missing
