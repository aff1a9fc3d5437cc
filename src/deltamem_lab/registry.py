"""The benchmarks by name, and the suites that run several.

A task is named by where it is defined, so that the toy world can lie with the demo and nothing is imported that does
not run.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem_lab.interface import Task
from deltamem_lab.tasks.options import task_options

# The folder of a run that has what was trained for it.
TRAINED = "trained"


@dataclass(frozen=True)
class PublishedSize:
    """How large a data set is as published; tokens are means, at four characters a token where data was at hand.

    Attributes:
        items: histories, or questions where there are none.
        questions: how many.
        history: tokens of a history; 0 if there are none.
        full: tokens of a prompt that shows as much of it as the first protocol does.
        bare: tokens of one that shows nothing of it.
        new: the most tokens of an answer.
    """

    items: int
    questions: int
    history: int
    full: int
    bare: int
    new: int


@dataclass(frozen=True)
class TaskEntry:
    """Where a task is defined.

    Attributes:
        where: ``module:attribute`` of what makes it, from a file or ``None`` for the Hub.
        seeded: whether another seed gives other items.
        size: of the whole, as published, where that is known.
    """

    where: str
    seeded: bool = False
    size: PublishedSize | None = None


TASKS: dict[str, TaskEntry] = {
    "world": TaskEntry("deltamem_lab.tasks.world:WorldTask", seeded=True),
    # Counted on the whole file.
    "locomo": TaskEntry("deltamem_lab.tasks.locomo:LoCoMo", size=PublishedSize(10, 1540, 26_300, 23_000, 135, 50)),
    # Contexts by the lengths in the sources' names and in the benchmark's paper. Nearly all are clipped at 120,000
    # characters.
    "memoryagentbench": TaskEntry(
        "deltamem_lab.tasks.memoryagentbench:MemoryAgentBench",
        size=PublishedSize(146, 3671, 186_000, 28_700, 150, 116),
    ),
    # From the first 100.
    "hotpotqa": TaskEntry("deltamem_lab.tasks.hotpotqa:HotpotQA", size=PublishedSize(7405, 7405, 1465, 1555, 57, 32)),
    # Its prompts' length is a guess: the data is gated.
    "gpqa": TaskEntry("deltamem_lab.tasks.gpqa:GPQA", size=PublishedSize(198, 198, 0, 250, 250, 8192)),
    # Counted on the whole file.
    "ifeval": TaskEntry("deltamem_lab.tasks.ifeval:IFEval", size=PublishedSize(541, 541, 0, 60, 60, 1500)),
    # As its authors say.
    "longmemeval": TaskEntry(
        "deltamem_lab.tasks.longmemeval:LongMemEval", size=PublishedSize(500, 500, 115_000, 115_000, 50, 500)
    ),
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
class SuiteTraining:
    """What a suite trains before it runs, by a command of ``deltamem``, into a folder of its own.

    Attributes:
        name: of the folder, and of what is trained among the adapters.
        method: the method that needs it.
        about: what is trained, in words.
        command: the arguments; ``{recipe}`` and ``{folder}`` stand for the recipe's file and the folder.
        recipe: the recipe's text for a folder.
        done: the file that the command writes last.
        seconds: about how long it takes on an idle core.
        needs: the packages that it and its method import, each with the extra that has it.
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
        more: methods that are run beside those if what they need is there, and else named with what they lack.
        trainings: where what it trains first is defined, as ``module:attribute``: a sequence of :class:`SuiteTraining`.
        limit: the most items a task; all by default.
        seconds: about how long the answers of a seed take on an idle core, where that is known.
        embedded: on the package's own backbone.
    """

    tasks: tuple[SuiteTask, ...]
    methods: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    trainings: str = ""
    limit: int | None = None
    seconds: int = 0
    embedded: bool = False


# What a published table has beside the memory and the plain texts, and the control that it lacks.
_BASELINES = ("dense", "memorybank", "llmlingua2", "context2lora", "memgen", "mlp_memory", "static")

SUITES: dict[str, Suite] = {
    "embedded": Suite(
        (SuiteTask("world"),),
        more=(*_BASELINES, "memorybank_keep", "context2lora_fitted"),
        trainings="deltamem_lab.trainings:TRAININGS",
        seconds=480,
        embedded=True,
    ),
    "smoke": Suite(
        (SuiteTask("world"),), methods=("none", "full", "bm25", "multi", "shuffled"), limit=6, embedded=True
    ),
    "paper": Suite(
        tuple(SuiteTask(name, "release") for name in ("ifeval", "hotpotqa", "gpqa", "memoryagentbench", "locomo")),
        more=_BASELINES,
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
        options: of the task, as texts; see :func:`~deltamem_lab.tasks.options.task_options`.

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


def protocol_of(one: SuiteTask) -> str:
    """The protocol of a suite's task, whose data need not be here.

    Raises:
        ValueError: the task has no such protocol.
    """
    return pick_protocol(resolve(TASKS[one.task].where), one.protocol)


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
