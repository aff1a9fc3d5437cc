"""The runs of a sweep, one after another or several at a time; what is finished is not done again."""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deltamem.files import write_atomically
from deltamem.train.arguments import processes
from deltamem.train.checkpoints import METRICS_FILE, RECIPE_FILE, check_folder
from deltamem.train.recipe import Recipe
from deltamem.train.run import run
from deltamem_lab.sweep.plan import Sweep

ERROR_FILE = "error.txt"


def run_sweep(sweep: Sweep, *, jobs: int = 1) -> int:
    """Trains what of a sweep is not trained yet; each run is one of ``deltamem train`` in a folder of its own.

    A run that fails leaves ``error.txt`` in its folder, and the others go on; the next time it is tried again.

    Args:
        sweep: the points.
        jobs: how many runs at a time; one takes place in this process, several in processes of their own.

    Returns:
        the signal that stopped it, with checkpoints to continue from, or 0.

    Raises:
        ValueError: it was started in several processes by a launcher.
    """
    if processes() > 1:
        raise ValueError("The runs of a sweep take one process each; start it without a launcher.")
    waiting = [(f"{point.name}, seed {seed}", recipe) for point, seed, recipe in sweep.runs()]
    pending = [(name, recipe) for name, recipe in waiting if not finished(recipe)]
    _tell(f"{len(waiting)} runs, {len(waiting) - len(pending)} of them finished before")
    if jobs > 1:
        return _several(pending, jobs)
    for number, (name, recipe) in enumerate(pending, 1):
        _tell(f"{number}/{len(pending)}: {name}")
        if stopped := train_run(recipe):
            return stopped
    return 0


def train_run(recipe: Recipe) -> int:
    """Trains one run, on from its last checkpoint; returns the signal that stopped it, or 0, also if it failed."""
    folder = Path(recipe.output.folder)
    (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        return run(recipe, resume=(folder / RECIPE_FILE).exists()).signal
    except Exception as error:
        reason = " ".join(str(error).split())
        _failed(folder, f"{type(error).__name__}: {reason}\n\n{traceback.format_exc()}")
        return 0


def finished(recipe: Recipe) -> bool:
    """Whether a run has its numbers; a folder with a run of another recipe is left to fail."""
    folder = Path(recipe.output.folder)
    if not (folder / METRICS_FILE).exists():
        return False
    try:
        check_folder(folder, recipe, resume=True)
    except ValueError:
        return False
    return True


def _several(pending: list[tuple[str, Recipe]], jobs: int) -> int:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    waiting = list(reversed(pending))
    running: dict[BaseProcess, Path] = {}
    with _passed_on(running) as received:
        while running or (waiting and not received):
            while waiting and len(running) < jobs and not received:
                name, recipe = waiting.pop()
                _tell(f"{len(pending) - len(waiting)}/{len(pending)}: {name}")
                process: BaseProcess = context.Process(target=_alone, args=(recipe, threads), name=name)
                process.start()
                running[process] = Path(recipe.output.folder)
            wait([process.sentinel for process in running], timeout=1)
            for process in [process for process in running if process.exitcode is not None]:
                folder = running.pop(process)
                if process.exitcode and not received:
                    _failed(folder, f"Its process ended with status {process.exitcode}.")
    return received[0] if received else 0


def _alone(recipe: Recipe, threads: int) -> None:
    """A run in a process of its own, with its lines in a file, since those of several would mix."""
    torch.set_num_threads(threads)
    folder = Path(recipe.output.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a", encoding="utf-8") as output:
        sys.stdout = sys.stderr = output
        train_run(recipe)


@contextmanager
def _passed_on(running: Iterable[BaseProcess]) -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM end the running processes by SIGTERM, and are listed in what it gives."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in running:
            process.terminate()

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(folder: Path, reason: str) -> None:
    write_atomically(folder / ERROR_FILE, reason.encode())
    _tell(f"failed: {folder}: {reason.splitlines()[0]}")


def _tell(line: str) -> None:
    print(f"sweep  {line}", file=sys.stderr, flush=True)
