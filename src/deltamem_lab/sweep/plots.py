"""The picture of a sweep: recall along each axis, with every seed and the intervals over seeds."""

import math
from pathlib import Path
from typing import Any

from deltamem.figures import figure_class, write_png
from deltamem_lab.sweep.results import PointResults, Results

PLOT_FILE = "sweep.png"
# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
_COLUMNS = 3


def draw_sweep(results: Results, folder: Path) -> Path:
    """Draws one panel an axis as ``sweep.png`` and returns its path.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    axes = results.axes()
    columns = min(_COLUMNS, len(axes))
    rows = math.ceil(len(axes) / columns)
    widest = max(len(points) for points in axes.values())
    figure = figure_class("train")(figsize=(columns * max(3.6, 0.7 * widest), 3.2 * rows), layout="constrained")
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
    path = folder / PLOT_FILE
    write_png(figure, path)
    return path


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
