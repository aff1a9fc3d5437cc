"""The suites: tasks and methods that are run together, and what the embedded one trains before it runs.

That is the static control of each adapter, trained as the adapter was: the same shape, stages, updates and seeds. And
the published baselines that are trained, each by its own command on the data of the adapter ``multi``, by fewer updates
than the adapter: as many as take a few minutes on an idle core or, for the MLP and the classifier, as their commands
do. Another package adds a suite by the entry-point group ``deltamem.suites``,
or the command line names it as ``module:SUITE``.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deltamem.demo.adapters import COURSES, TRAINING_FILE, Which, recipe_of
from deltamem.extensions import load_named
from deltamem_lab.methods.registry import static_of
from deltamem_lab.names import STATIC, SUITE_GROUP, check_suite


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
    """What a suite trains before it runs, by a command of its own, into a folder of its own.

    Attributes:
        name: of the folder, and of what is trained among the adapters.
        method: the method that needs it.
        about: what is trained, in words.
        command: a module that Python runs, such as ``deltamem``, and its arguments; ``{recipe}`` and ``{folder}`` stand
            for the recipe's file and the folder.
        done: the file that the command writes last.
        seconds: about how long it takes on an idle core.
        recipe: the recipe's text for a folder, if the command reads one.
        needs: the packages that it and its method import, each with the extra that has it.
    """

    name: str
    method: str
    about: str
    command: tuple[str, ...]
    done: str
    seconds: int
    recipe: Callable[[Path], str] | None = None
    needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Suite:
    """What runs together.

    Attributes:
        tasks: the tasks.
        methods: the methods; every one that the adapters allow by default.
        more: methods that also run if what they need is there; otherwise they are named with what they lack.
        trainings: what it trains first.
        limit: the most items of each task; all by default.
        seconds: about how long the answers of a seed take on an idle core, if known.
        embedded: on the package's own backbone.
    """

    tasks: tuple[SuiteTask, ...]
    methods: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    trainings: tuple[SuiteTraining, ...] = ()
    limit: int | None = None
    seconds: int = 0
    embedded: bool = False


_TRAINER = ("accelerate", "train"), ("pydantic", "train"), ("yaml", "train"), ("datasets", "train")
_PEFT = ("peft", "lora")


def _recipe(folder: Path, steps: int) -> str:
    """The recipe of the adapter ``multi`` with so many updates and in float32, as YAML."""
    from deltamem.train.recipefile import recipe_yaml

    course = COURSES["multi"]
    stage = dataclasses.replace(course.stages[0], steps=steps)
    return recipe_yaml(recipe_of(course.config, stage, folder, precision="no"))


def _static(which: Which, name: str, seconds: int) -> SuiteTraining:
    """The static control of one of the package's adapters, by the adapter's own stages."""
    updates = sum(stage.steps for stage in COURSES[which].stages)
    return SuiteTraining(
        name=name,
        method=name,
        about=f"the static control of {which}: trained on strangers' memories, {updates:,} updates as {which} was",
        command=("deltamem.demo.adapters", which, "--control", "--run", "{folder}/stages", "--output", "{folder}"),
        done=TRAINING_FILE,
        seconds=seconds,
        needs=(*_TRAINER, ("matplotlib", "train")),
    )


def _baseline(
    command: str, method: str, about: str, steps: int, seconds: int, *needs: tuple[str, str], name: str = ""
) -> SuiteTraining:
    """A published baseline, by its command, on the data of so many updates of the adapter ``multi``."""
    return SuiteTraining(
        name=name or command,
        method=method,
        about=about,
        command=("deltamem", "baseline", command, "{recipe}", "--output", "{folder}"),
        recipe=lambda folder: _recipe(folder, steps),
        done="training.json",
        seconds=seconds,
        needs=(*_TRAINER, *needs),
    )


TRAININGS: tuple[SuiteTraining, ...] = (
    _static("multi", STATIC, 6200),
    _static("token", static_of("token"), 3100),
    _static("segment", static_of("segment"), 2900),
    _baseline("lora", "context2lora", "the LoRA of context2lora, 250 updates", 250, 300, _PEFT),
    _baseline("memgen", "memgen", "the weaver of memgen, 800 updates", 800, 180, _PEFT),
    _baseline("mlp-memory", "mlp_memory", "the MLP of mlp_memory, 600 updates on 30,000 tokens", 400, 60, name="mlp"),
    _baseline(
        "compression",
        "compression",
        "the classifier of compression, 300 updates on 3,200 histories",
        200,
        60,
        ("llmlingua", "llmlingua"),
    ),
)


# What a published table has beside the memory and the plain texts, and the control that it lacks.
_BASELINES = ("dense", "memorybank", "compression", "llmlingua2", "context2lora", "memgen", "mlp_memory", STATIC)

SUITES: dict[str, Suite] = {
    "embedded": Suite(
        (SuiteTask("world"),),
        more=(
            *_BASELINES,
            static_of("token"),
            static_of("segment"),
            "memorybank_keep",
            "context2lora_fitted",
            "regex",
            "delta_table",
        ),
        trainings=TRAININGS,
        seconds=480,
        embedded=True,
    ),
    "smoke": Suite(
        (SuiteTask("world"),), methods=("none", "full", "bm25", "multi", "shuffled"), limit=12, embedded=True
    ),
    "paper": Suite(
        tuple(SuiteTask(name, "release") for name in ("ifeval", "hotpotqa", "gpqa", "memoryagentbench", "locomo")),
        more=_BASELINES,
    ),
}


def find_suite(name: str) -> Suite:
    """A suite by its name, or as ``module:SUITE``, which is imported.

    Raises:
        ValueError: there is none.
    """
    if name in SUITES:
        return SUITES[name]
    check_suite(name)
    found = load_named(name, SUITE_GROUP)
    if not isinstance(found, Suite):
        raise ValueError(f"{name} is not a suite: it must be a {Suite.__module__}.Suite.")
    return found
