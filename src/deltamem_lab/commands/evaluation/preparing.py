"""What a suite trains before it runs: by the commands that train it alone, once, into the run's own folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from deltamem.extensions import how_to_install
from deltamem.files import write_atomically
from deltamem_lab.commands.evaluation.recipe import EvalRecipe, placed
from deltamem_lab.loading import static_name
from deltamem_lab.methods.registry import is_static, static_of
from deltamem_lab.names import STATIC
from deltamem_lab.records import TRAINED
from deltamem_lab.suites import Suite, SuiteTraining

_RECIPE = "recipe.yaml"
# What is trained under this name is no adapter of the backbone.
_COMPRESSED = "compression"
_NOT_TRAINED = "it is trained first, and --no-train left that out"


def at_once(count: int) -> int:
    """How many of so many commands run at a time."""
    import torch

    return max(1, min(count, torch.get_num_threads()))


def run_commands(commands: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Runs commands, each in a process that leaves no trace in this one, with its share of the threads.

    The lines that they print go to standard error, each behind its command's name. One that fails does not end the
    others. What interrupts this process reaches them too; they are waited for, and what has not begun is left out.

    Args:
        commands: the module that Python runs and its arguments, by the command's name; so are the exit statuses.
    """
    import torch

    places = at_once(len(commands))
    threads = torch.get_num_threads() // places
    pool = ThreadPoolExecutor(places)
    try:
        statuses = pool.map(lambda name: _run(name, commands[name], threads), commands)
        return dict(zip(commands, statuses, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _run(name: str, arguments: Sequence[str], threads: int) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                print(f"{name}: {line}", end="", file=sys.stderr, flush=True)
    return process.returncode


@dataclass(frozen=True)
class Preparation:
    """What of a suite's trainings is there, what is to be done, and what cannot be.

    Attributes:
        folder: what has a folder for each.
        there: those that are done.
        left: those to do.
        absent: the methods that go without, each with the reason.
        recipe: what the user asked for.
    """

    folder: Path
    there: tuple[SuiteTraining, ...]
    left: tuple[SuiteTraining, ...]
    absent: Mapping[str, str]
    recipe: EvalRecipe

    @property
    def adapters(self) -> list[str]:
        """The adapters that the user gave, and those that were trained, as ``NAME=FOLDER``."""
        trained = [one.name for one in self.there if one.name != _COMPRESSED and not is_static(one.name)]
        return [*placed(self.recipe.adapters), *(f"{name}={self.folder / name}" for name in trained)]

    @property
    def statics(self) -> list[str]:
        """The static controls that the user gave, and those that were trained, some as ``ADAPTER=FOLDER``."""
        trained = [one.name for one in self.there if is_static(one.name)]
        named = (f"{name.removeprefix(static_of(''))}=" if name != STATIC else "" for name in trained)
        made = (f"{name}{self.folder / one}" for name, one in zip(named, trained, strict=True))
        return [*placed(self.recipe.static_adapters), *made]

    @property
    def compressor(self) -> str:
        """The classifier that compresses that the user gave, or the folder of the one that was trained."""
        trained = any(one.name == _COMPRESSED for one in self.there)
        return self.recipe.compressor or (str(self.folder / _COMPRESSED) if trained else "")

    def told(self) -> Iterator[str]:
        """What is to be trained, and about how long it takes, in lines."""
        if not self.left:
            return
        seconds = [one.seconds for one in self.left]
        places = at_once(len(seconds))
        minutes = max(*seconds, sum(seconds) / places) / 60
        cores = "an idle core" if places == 1 else f"{places} idle cores"
        yield f"Trains first, about {minutes:.0f} min on {cores}, into {self.folder} (--no-train leaves it out):"
        for one in self.left:
            yield f"  {one.name}: {one.about}; about {one.seconds / 60:.0f} min"


def find_preparation(suite: Suite, recipe: EvalRecipe) -> Preparation:
    """What of a suite's trainings the recipe's methods need; what the user gave takes the place of its namesake."""
    folder, methods = recipe.output / TRAINED, recipe.methods
    named = {name for name, found, _ in (one.partition("=") for one in placed(recipe.adapters)) if found}
    named |= {static_name(one)[0] for one in placed(recipe.static_adapters)}
    if recipe.compressor:
        named.add(_COMPRESSED)
    wanted = [
        one for one in suite.trainings if one.name not in named and (not methods or _is_among(one.method, methods))
    ]
    there = tuple(one for one in wanted if (folder / one.name / one.done).is_file())
    left = [one for one in wanted if one not in there]
    absent = {one.method: reason for one in left if (reason := _lacking(one) or ("" if recipe.train else _NOT_TRAINED))}
    return Preparation(folder, there, tuple(one for one in left if one.method not in absent), absent, recipe)


def train(
    preparation: Preparation,
    *,
    shared: bool = False,
    run: Callable[[Mapping[str, Sequence[str]]], Mapping[str, int]] = run_commands,
) -> Preparation:
    """Trains what is left; what was stopped goes on, or begins anew where its command cannot go on.

    Args:
        preparation: what is left.
        shared: whether several processes share the run.
        run: runs the trainings' commands, and gives their exit statuses by name.

    Returns:
        the same with everything there.

    Raises:
        ValueError: a training failed or was stopped, or each of several processes would train.
    """
    if shared:
        names = ", ".join(one.name for one in preparation.left)
        raise ValueError(
            f"{names}: not trained yet, and processes that share a run do not train. Run the command once by itself, "
            "with --limit 2, or give --no-train."
        )
    print("\n".join(preparation.told()), file=sys.stderr, flush=True)
    statuses = run({one.name: _command(one, preparation.folder / one.name) for one in preparation.left})
    for one in preparation.left:
        if statuses[one.name] or not (preparation.folder / one.name / one.done).is_file():
            raise ValueError(
                f"The training of {one.name} ended early, with status {statuses[one.name]}. Run the same command to "
                "continue, or leave out what is not trained with --no-train."
            )
    return replace(preparation, there=(*preparation.there, *preparation.left), left=())


def _command(training: SuiteTraining, place: Path) -> list[str]:
    """A training's command; its recipe is written where it is not there yet."""
    recipe = place / _RECIPE
    if training.recipe is not None and not recipe.is_file():
        write_atomically(recipe, training.recipe(place).encode())
    return [argument.format(recipe=recipe, folder=place) for argument in training.command]


def _lacking(training: SuiteTraining) -> str:
    """Which package it needs that is not here, if any."""
    missing = ((name, extra) for name, extra in training.needs if find_spec(name) is None)
    return next((f"needs {name}: {how_to_install(extra)}" for name, extra in missing), "")


def _is_among(method: str, names: Sequence[str]) -> bool:
    return any(method in (name.partition("+")[0], *name.split(":")) for name in names)
