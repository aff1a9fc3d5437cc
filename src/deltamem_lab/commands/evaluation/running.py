"""Running an evaluation, and telling how it goes and what came of it."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltamem.wording import counted

if TYPE_CHECKING:
    from deltamem_lab.backbone import Backbone
    from deltamem_lab.commands.evaluation.recipe import EvalRecipe
    from deltamem_lab.methods import MethodOptions
    from deltamem_lab.runner import Job, Progress


def load(
    recipe: "EvalRecipe", adapters: Sequence[str], statics: Sequence[str] = (), *, weights: bool = True
) -> "Backbone":
    """The backbone of a run with its adapters."""
    from deltamem.models.loading import quiet_transformers
    from deltamem_lab.loading import embedded_backbone, load_backbone

    quiet_transformers()
    if not recipe.has_model:
        return embedded_backbone(statics, batch=recipe.batch, adapters=adapters)
    return load_backbone(
        recipe.model.name,
        adapters,
        statics,
        revision=recipe.model.revision,
        batch=recipe.batch,
        weights=weights,
        template={} if recipe.model.thinking else {"enable_thinking": False},
        dtype=recipe.model.dtype,
        attention=recipe.model.attention,
        device_map=recipe.model.device_map,
    )


def tell_time(seconds: int, seeds: int) -> None:
    """Says about how long the answers take."""
    print(f"The answers take about {seconds * seeds / 60:.0f} min on an idle core.", file=sys.stderr, flush=True)


def run(
    jobs: Sequence["Job"],
    methods: Sequence[str],
    backbone: "Backbone",
    output: Path,
    options: "MethodOptions",
    shard: tuple[int, int],
    admitted: Callable[[], None],
) -> int:
    """Answers what is not answered yet, and tells how far it is; how many questions that were.

    In a terminal that is a bar, elsewhere a line a minute. ``admitted`` is that of
    :func:`~deltamem_lab.runner.run_jobs`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    from deltamem_lab.runner import run_jobs

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f}"))
    left = TextColumn("{task.fields[left]}")
    with Bars(*columns, left, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("", total=0, left="")
        lines = Lines()

        def tell(now: "Progress") -> None:
            bar.update(shown, completed=now.done, total=now.total, description=now.label, left=_left(now))
            if not console.is_terminal:
                lines(now)

        return run_jobs(jobs, methods, backbone, output, options=options, shard=shard, admitted=admitted, progress=tell)


class Lines:
    """Prints how far a run is to standard error, a line in so many seconds at most, the first after as many."""

    def __init__(self, seconds: float = 60) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, now: "Progress") -> None:
        """Prints a line if it is time."""
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            print(f"{now.done:,} of {now.total:,} ({now.label}) {_left(now)}".rstrip(), file=sys.stderr, flush=True)


def take_notes(recipe: "EvalRecipe", absent: Mapping[str, str], methods: Sequence[str]) -> None:
    """Keeps the command, the recipe that repeats the run, and which methods were left out."""
    from deltamem_lab.commands.evaluation.recipe import save_recipe
    from deltamem_lab.notes import add_notes

    save_recipe(recipe)
    add_notes(recipe.output, shlex.join(["deltamem", *sys.argv[1:]]), absent, tuple(methods))


def finish(output: Path, answered: int, as_json: bool, *, quiet: bool) -> None:
    """Prints what came of a run; of a shard only that it is done."""
    from deltamem_lab.notes import read_notes
    from deltamem_lab.records import read_run
    from deltamem_lab.report.terminal import print_summary
    from deltamem_lab.summary import as_data, summarise

    if quiet:
        print(f"Answered {counted(answered, 'question')}. When all shards are done: deltamem report {output}")
        return
    tasks = summarise(read_run(output))
    absent = read_notes(output).absent
    if as_json:
        done = {"answered": answered, "tasks": [as_data(one) for one in tasks], "absent": absent}
        print(json.dumps(done, indent=2))
        return
    print_summary(tasks)
    for name, reason in absent.items():
        print(f"{name}: not run: {reason}")
    print(
        f"\nAnswered {counted(answered, 'question')} now; records in {output}. For a report: deltamem report {output}"
    )


def _left(now: "Progress") -> str:
    if now.seconds_left is None:
        return ""
    minutes, seconds = divmod(round(now.seconds_left), 60)
    return f"about {minutes}:{seconds:02} left"
