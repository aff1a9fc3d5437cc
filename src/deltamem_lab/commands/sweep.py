"""``deltamem sweep``: many short trainings that differ in one thing."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem.extensions import from_extra
from deltamem.wording import counted

if TYPE_CHECKING:
    from deltamem.train.recipe import Recipe
    from deltamem_lab.sweep.plan import Sweep


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="The sweep, a YAML file: a recipe and its axes.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as sweep.seeds=[0].")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the runs, if not the recipe's output.folder.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many runs to train at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be trained.")] = False,
) -> None:
    """Train a recipe with one thing changed at a time, and compare the results.

    Every point is a run of deltamem train in its own folder. Run the same command again to continue a stopped sweep; it
    also retries failed runs. It writes sweep.json, sweep.md and sweep.png.

    Example: deltamem sweep recipes/sweep.yaml --output runs/sweep
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no sweep {file}.")
    with from_extra("train", "Training needs {}"):
        from deltamem_lab.sweep.plan import load_sweep
    planned = load_sweep(file, changes or (), output)
    if dry_run:
        _plan(planned)
        return
    from deltamem_lab.sweep.report import write_all
    from deltamem_lab.sweep.results import collect
    from deltamem_lab.sweep.running import run_sweep

    stopped = run_sweep(planned, jobs=jobs)
    results = collect(planned)
    for path in write_all(results):
        print(path)
    for run, why in results.missing.items():
        print(f"Without numbers: {run}: {why}")
    if stopped:
        print("Stopped, with a checkpoint. Run the same command to continue.")
        raise typer.Exit(128 + stopped)
    if results.missing:
        raise typer.Exit(1)


def auto_size(recipe: "Recipe") -> "Recipe":
    """The recipe with the size that short runs choose, for ``deltamem train --auto-size``; tells of them on stderr.

    Raises:
        ValueError: the recipe has its size, nothing is held out to measure on, or no size could be trained.
        typer.Exit: it was stopped.
    """
    from deltamem_lab.sweep.report import sweep_table, write_all
    from deltamem_lab.sweep.results import collect
    from deltamem_lab.sweep.running import run_sweep
    from deltamem_lab.sweep.sizing import choose_size, plan_sizes

    sizes = plan_sizes(recipe)
    if stopped := run_sweep(sizes):
        print("Stopped before a size was found, with a checkpoint. Run the same command to continue.", file=sys.stderr)
        raise typer.Exit(128 + stopped)
    results = collect(sizes)
    write_all(results)
    choice = choose_size(recipe, results)
    print(f"\n{sweep_table(results)}\n{choice.reason}\n", file=sys.stderr)
    return choice.recipe


def _plan(planned: "Sweep") -> None:
    from deltamem.train.plan import plan_run

    seeds = len(planned.options.seeds)
    for point in planned.points:
        plan = plan_run(point.recipe)
        print(
            f"{point.name:32}{plan['trainable_parameters']:>12,} parameters{plan['state_bytes']:>12,} bytes of state"
            f"{plan['steps']:>9,} steps × {seeds}"
        )
    print(f"{counted(len(planned.points) * seeds, 'run')} in {planned.folder}")
