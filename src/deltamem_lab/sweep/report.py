"""What is shown of a sweep: a table an axis, and a picture of recall with every seed and the intervals over seeds."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltamem.figures import figure_class, write_png
from deltamem.files import write_atomically, write_json
from deltamem_lab.statistics import Interval
from deltamem_lab.sweep.plan import CENTRE
from deltamem_lab.sweep.results import PointResults, Results, as_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
_COLUMNS = 3
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


def _figure(results: Results) -> "Figure":
    """One panel an axis."""
    axes = results.axes()
    columns = min(_COLUMNS, len(axes))
    rows = math.ceil(len(axes) / columns)
    widest = max(len(points) for points in axes.values())
    size = (columns * max(3.6, 0.7 * widest), 3.2 * rows)
    figure: Figure = figure_class("train")(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    names = [name for name in results.measures if name.startswith("recall")]
    for (axis, points), panel in zip(axes.items(), panels, strict=False):
        for i, name in enumerate(names):
            _draw(panel, points, name, colour=_COLOURS[i % len(_COLOURS)], shift=0.12 * (i - (len(names) - 1) / 2))
        panel.set(xlabel=axis, xlim=(-0.5, len(points) - 0.5), ylim=(-0.02, 1.02))
        panel.set_xticks(range(len(points)), [label for label, _ in points], rotation=30 if widest > 4 else 0)
        panel.grid(alpha=0.3)
    for panel in list(panels):
        panel.remove()
    first = figure.axes[0]
    first.set_ylabel("held-out recall")
    if len(names) > 1:
        first.legend(fontsize=8)
    return figure


def _draw(panel: Any, points: list[tuple[str, PointResults]], name: str, *, colour: str, shift: float) -> None:
    known = [(place + shift, found) for place, (_, found) in enumerate(points) if name in found.intervals]
    intervals = [found.intervals[name] for _, found in known]
    below = [max(0.0, i.value - i.low) if math.isfinite(i.low) else 0.0 for i in intervals]
    above = [max(0.0, i.high - i.value) if math.isfinite(i.high) else 0.0 for i in intervals]
    panel.errorbar(
        [place for place, _ in known],
        [interval.value for interval in intervals],
        yerr=(below, above),
        fmt="o",
        color=colour,
        capsize=3,
        label=name,
    )
    seeds = [(place, run[name]) for place, found in known for run in found.runs.values() if name in run]
    panel.plot([place for place, _ in seeds], [value for _, value in seeds], "x", color=colour, alpha=0.5, markersize=4)


def write_all(results: Results) -> tuple[Path, Path, Path]:
    """Writes a sweep's numbers, table and picture into its folder and returns their paths.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    folder = results.sweep.folder
    numbers, table, picture = folder / "sweep.json", folder / "sweep.md", folder / "sweep.png"
    write_json(numbers, as_data(results))
    write_atomically(table, sweep_table(results).encode())
    write_png(_figure(results), picture)
    return numbers, table, picture
