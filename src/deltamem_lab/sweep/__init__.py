"""Many short trainings that differ in one thing, and what comes of them: ``deltamem sweep`` and ``--auto-size``."""

from pathlib import Path

from deltamem_lab.sweep.plan import Place, Point, Sweep, SweepOptions, load_sweep, plan_sweep
from deltamem_lab.sweep.report import draw_sweep, write_table
from deltamem_lab.sweep.results import PointResults, Results, collect, write_results
from deltamem_lab.sweep.running import run_sweep

__all__ = [
    "Place",
    "Point",
    "PointResults",
    "Results",
    "Sweep",
    "SweepOptions",
    "collect",
    "load_sweep",
    "plan_sweep",
    "run_sweep",
    "write_all",
]


def write_all(results: Results) -> tuple[Path, Path, Path]:
    """Writes a sweep's numbers, table and picture into its folder and returns their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = results.sweep.folder
    return write_results(results, folder), write_table(results, folder), draw_sweep(results, folder)
