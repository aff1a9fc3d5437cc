"""Many short trainings that differ in one thing, and what comes of them: ``deltamem sweep`` and ``--auto-size``."""

from typing import TYPE_CHECKING

from deltamem.lazily import lazily

if TYPE_CHECKING:
    from deltamem_lab.sweep.plan import Place, Point, Sweep, SweepOptions, load_sweep, plan_sweep
    from deltamem_lab.sweep.report import write_all
    from deltamem_lab.sweep.results import PointResults, Results, collect
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

_HOMES = {
    "plan": "Place Point Sweep SweepOptions load_sweep plan_sweep",
    "report": "write_all",
    "results": "PointResults Results collect",
    "running": "run_sweep",
}
__getattr__ = lazily(__name__, _HOMES)
