"""The benchmarks by name, and the suites that run several.

A task is named by where it is defined, so that the toy world can lie with the demo and nothing is imported that does
not run.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem.eval.interface import Task
from deltamem.eval.tasks.options import task_options

# The folder of a run that has what was trained for it.
TRAINED = "trained"


@dataclass(frozen=True)
class TaskEntry:
    """Where a task is defined.

    Attributes:
        where: ``module:attribute`` of what makes it, from a file or ``None`` for the Hub.
        seeded: whether another seed gives other items.
        size: histories and questions of the whole, as published, where that is known.
    """

    where: str
    seeded: bool = False
    size: str = ""


TASKS: dict[str, TaskEntry] = {
    "world": TaskEntry("deltamem.demo.task:WorldTask", seeded=True),
    "locomo": TaskEntry("deltamem.eval.tasks.locomo:LoCoMo", size="10 conversations, 1,540 questions"),
    "memoryagentbench": TaskEntry(
        "deltamem.eval.tasks.memoryagentbench:MemoryAgentBench", size="146 contexts, 3,671 questions"
    ),
    "hotpotqa": TaskEntry("deltamem.eval.tasks.hotpotqa:HotpotQA", size="7,405 questions"),
    "gpqa": TaskEntry("deltamem.eval.tasks.gpqa:GPQA", size="198 questions"),
    "longmemeval": TaskEntry("deltamem.eval.tasks.longmemeval:LongMemEval", size="500 questions"),
}


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite.

    Attributes:
        task: its name.
        protocol: one of its protocols; the first by default.
    """

    task: str
    protocol: str = ""


@dataclass(frozen=True)
class Training:
    """What a suite trains before it runs, by a command of ``deltamem``, into a folder of its own.

    Attributes:
        name: of the folder, and of what is trained among the adapters.
        method: the method that needs it.
        about: what is trained, in words.
        command: the arguments; ``{recipe}`` and ``{folder}`` stand for the recipe's file and the folder.
        recipe: the recipe's text for a folder.
        done: the file that the command writes last.
        seconds: about how long it takes on an idle core.
        needs: the packages that it imports, each with the extra that has it.
    """

    name: str
    method: str
    about: str
    command: tuple[str, ...]
    recipe: Callable[[Path], str]
    done: str
    seconds: int
    needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Suite:
    """What is run together.

    Attributes:
        tasks: the tasks.
        methods: the methods; every one that the adapters allow by default.
        more: methods that are run beside those, each if what it needs is there.
        trainings: where what it trains first is defined, as ``module:attribute``: a sequence of :class:`Training`.
        limit: the most items a task; all by default.
        seconds: about how long the answers of a seed take on an idle core, where that is known.
        embedded: on the package's own backbone.
        harness: tasks of lm-evaluation-harness that belong to it, with their number of prompts.
    """

    tasks: tuple[SuiteTask, ...]
    methods: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    trainings: str = ""
    limit: int | None = None
    seconds: int = 0
    embedded: bool = False
    harness: tuple[tuple[str, int], ...] = ()


SUITES: dict[str, Suite] = {
    "embedded": Suite(
        (SuiteTask("world"),),
        more=("memorybank_keep", "llmlingua2", "context2lora_fitted"),
        trainings="deltamem.demo.suite:TRAININGS",
        seconds=480,
        embedded=True,
    ),
    "smoke": Suite(
        (SuiteTask("world"),), methods=("none", "full", "bm25", "multi", "shuffled"), limit=6, embedded=True
    ),
    "paper": Suite(
        (
            SuiteTask("locomo", "release"),
            SuiteTask("memoryagentbench", "release"),
            SuiteTask("hotpotqa", "release"),
            SuiteTask("gpqa", "release"),
        ),
        harness=(("ifeval", 541),),
    ),
}


def build_task(
    name: str,
    data: Path | None = None,
    *,
    revision: str | None = None,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
) -> Task:
    """A task by its name.

    Args:
        name: one of :data:`TASKS`.
        data: its file; the Hub's data if not given.
        revision: of the Hub's data.
        seed: for tasks that are made up.
        options: of the task, as texts; see :func:`~deltamem.eval.tasks.options.task_options`.

    Raises:
        ValueError: there is no such task, or what was given does not fit it.
    """
    if name not in TASKS:
        raise ValueError(f"There is no task {name!r}; there are: {', '.join(TASKS)}.")
    entry = TASKS[name]
    given: dict[str, Any] = {"data": data}
    if entry.seeded:
        given["seed"] = seed
    if revision is not None:
        if entry.seeded:
            raise ValueError(f"The task {name!r} is made up here and has no revision; leave --revision out.")
        given["revision"] = revision
    make: Callable[..., Task] = resolve(entry.where)
    return make(**given, **task_options(make, options or {}))


def pick_protocol(task: Task, wanted: str = "") -> str:
    """The protocol of that name, or the task's first.

    Raises:
        ValueError: the task has no such protocol.
    """
    if wanted and wanted not in task.protocols:
        raise ValueError(f"{task.name} has no protocol {wanted!r}; it has: {', '.join(task.protocols)}.")
    return wanted or task.protocols[0]


def resolve(where: str) -> Any:
    """What ``module:attribute`` names."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)
