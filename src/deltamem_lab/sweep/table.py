"""A sweep as Markdown: one table an axis."""

import math
from pathlib import Path

from deltamem.files import write_atomically
from deltamem_lab.statistics import Interval
from deltamem_lab.sweep.plan import CENTRE
from deltamem_lab.sweep.results import PointResults, Results

TABLE_FILE = "sweep.md"
_SHOWN = {"own_loss": "own loss", "static_loss": "static loss", "memory_share": "memory share"}
_NONE = "–"


def sweep_table(results: Results) -> str:
    """Every axis with its points: measures as mean ± half of the 95 % interval, sizes and times."""
    options = results.sweep.options
    seeds = f"{len(options.seeds)} seeds" if len(options.seeds) > 1 else "one seed, hence no intervals"
    around = "every combination of the axes" if options.grid else "one axis at a time around the centre (*)"
    lines = [
        f"# Sweep {results.sweep.name}",
        "",
        f"{len(results.points)} points, {around}; {seeds}; {results.machine}. Measures are of held-out episodes: the "
        "mean over the seeds ± half of its 95 % interval, with the seeds' variance pooled over all points. Losses are "
        "in nats a token, times are means a run.",
    ]
    for axis, points in results.axes().items():
        lines += ["", f"## {axis}", "", *_rows(axis, points, results.measures)]
    if missing := results.missing:
        lines += ["", "## Without numbers", "", *(f"- {run}: {why}" for run, why in missing.items())]
    return "\n".join(lines) + "\n"


def write_table(results: Results, folder: Path) -> Path:
    """Writes ``sweep.md`` and returns its path.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / TABLE_FILE
    write_atomically(path, sweep_table(results).encode())
    return path


def _rows(axis: str, points: list[tuple[str, PointResults]], measures: tuple[str, ...]) -> list[str]:
    head = [axis, *(_SHOWN.get(name, name) for name in measures), "parameters", "state bytes", "seconds"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for label, found in points:
        cells = [f"{label} *" if found.point.name == CENTRE else label]
        cells += [_interval(found.intervals.get(name)) for name in measures]
        cells += [_count(found.first(name)) for name in ("parameters", "state_bytes")]
        cells.append(_NONE if found.seconds is None else f"{found.seconds:.0f}")
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _interval(found: Interval | None) -> str:
    if found is None:
        return _NONE
    half = max(found.high - found.value, found.value - found.low)
    return f"{found.value:.3f} ± {half:.3f}" if math.isfinite(half) else f"{found.value:.3f}"


def _count(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"
