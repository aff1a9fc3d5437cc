"""The demo as a whole: load, tell, measure, draw, print."""

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deltamem.demo.measure import Sizes, measure
from deltamem.demo.reader import Reader
from deltamem.demo.story import tell_story
from deltamem.extensions import from_extra

_MOST_THREADS = 4

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM


def load_demo() -> tuple["Qwen3ForCausalLM", "PreTrainedTokenizerFast"]:
    """The embedded backbone with its adapters, of which the last, ``multi``, is active, and the tokenizer."""
    from transformers.utils import logging

    from deltamem.demo.adapters import COURSES, load_demo_adapter
    from deltamem.demo.backbone import load_backbone

    logging.disable_progress_bar()
    model, tokenizer = load_backbone()
    for which in COURSES:
        load_demo_adapter(model, which)
    return model, tokenizer


def run_demo(folder: Path, *, as_data: bool = False, sizes: Sizes | None = None) -> dict[str, Any]:
    """Runs everything, writes pictures and a memory to ``folder``, and gives the numbers as plain data.

    The report goes to standard output unless ``as_data``; progress goes to standard error.

    Raises:
        ImportError: a package of the ``demo`` extra is missing.
        OSError: ``folder`` cannot be written.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from deltamem.demo.plots import draw_plots
    from deltamem.demo.report import WIDTH, show_end, show_results, show_story

    start = time.monotonic()
    require_extra()
    sizes = sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    console, progress = Console(quiet=as_data), Console(stderr=True)
    if not console.is_terminal:
        console.width = WIDTH
    with _one_thread_each() as threads:
        with progress.status("loading the backbone and its adapters"):
            model, tokenizer = load_demo()
            story = tell_story(model, tokenizer, folder / "memory.safetensors")
            readers = [Reader(model, tokenizer), *(Reader(*load_demo()) for _ in range(1, min(threads, _MOST_THREADS)))]
        show_story(console, story)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=progress, transient=True) as bar:
            task = bar.add_task("measuring", total=sizes.steps)
            results = measure(readers, lambda label: bar.update(task, advance=1, description=label), sizes)
    plots = draw_plots(results, story.file, folder)
    seconds = time.monotonic() - start
    show_results(console, results)
    show_end(console, plots, story.file, seconds)
    return results.as_data() | {
        "seconds": round(seconds, 2),
        "story": [asdict(reply) for reply in story.replies],
        "plots": {name: str(path) for name, path in plots.items()},
    }


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """One thread a product within the block, which is told how many it may start itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def require_extra() -> None:
    """Checks for the packages of the ``demo`` extra before anything slow begins.

    Raises:
        ImportError: one is missing; the message names the command that installs it.
    """
    for package in ("matplotlib", "bm25s"):
        with from_extra("demo", f"The demo needs {package}"):
            importlib.import_module(package)
