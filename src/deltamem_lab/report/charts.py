"""Drawings for a report, by matplotlib: bars by category, cost against quality, and lines in small panels.

They are SVG without any script. Colours are names that the page gives a value to, one in light and one in the dark.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem.figures import figure_class
from deltamem_lab.statistics import Interval

# Of all drawings, in pixels.
WIDTH = 760
# matplotlib wants numbers for colours, so each name of the page's has one until the drawing is done.
_NAMES = ("ink", "quiet", "grid", "main", "muted", "series-1", "series-2", "series-3")
_NUMBERS = {name: f"#{number:06x}" for number, name in enumerate(_NAMES, start=1)}
_INK, _QUIET, _GRID, _MAIN, _MUTED, *_MORE = _NUMBERS.values()
# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008), for lines that share a panel.
_SERIES = (_MAIN, *_MORE, _INK, _MUTED)
_FONT = "DejaVu Sans"
_RULES: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deltamem",
    "text.parse_math": False,
    "font.family": _FONT,
    "font.size": 11,
    "axes.titlesize": "medium",
    "figure.labelsize": "medium",
    "legend.fontsize": "medium",
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_DPI = 72
# Of a label: about the width of a letter, the height of its line, and how far it stands from its point.
_LETTER, _LINE, _AWAY = 6.8, 13, 9
_TICKS = 4
_MANY = 12
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Line:
    """Points from left to right.

    Attributes:
        points: x and the value there; its interval is drawn where it has one.
        faint: whether it is only there to compare with.
    """

    points: Sequence[tuple[float, Interval]]
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over one axis.

    Attributes:
        title: above it.
        lines: by name.
        high: the highest value drawn; the lowest is 0.
        logarithmic: whether the x axis is.
    """

    title: str
    lines: Mapping[str, Line]
    high: float = 1.0
    logarithmic: bool = False


def category_bars(categories: Mapping[str, Mapping[str, Interval]], marked: frozenset[str]) -> str:
    """For each category a bar for each method, from 0 to 1, with 95 % intervals; marked methods are grey."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        place, ticks = 0.0, {}
        for category, methods in categories.items():
            axes.text(0, place, category, weight="bold", va="center")
            for number, (method, one) in enumerate(methods.items(), start=1):
                at = place + number
                ticks[at] = method
                axes.barh(at, one.value, height=0.78, color=_MUTED if method in marked else _MAIN)
                axes.hlines(at, one.low, one.high, color=_INK, linewidth=1)
                axes.text(max(one.high, 0) + 0.01, at, f"{100 * one.value:.0f}", va="center")
            place += len(methods) + 1.6
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_ylim(place - 1, -0.8)
        axes.set_xlim(0, 1.06)
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    rows = sum(len(methods) + 1.6 for methods in categories.values())
    return _svg(draw, 18 * rows + 20)


def pareto(points: Mapping[str, tuple[float, float]], marked: frozenset[str]) -> str:
    """Methods by cost and quality; those that no other beats in both are joined by a line.

    Args:
        points: for each method its cost, above zero and drawn on a logarithmic axis, and its quality in [0, 1].
        marked: the methods that are drawn in grey and left out of the line.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shown = {name: (max(cost, 1.0), quality) for name, (cost, quality) in points.items()}
        front = pareto_front({name: point for name, point in shown.items() if name not in marked})
        joined = [shown[name] for name in front]
        axes.plot([cost for cost, _ in joined], [quality for _, quality in joined], "--", color=_MAIN, linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(-0.04, 1.04)
        axes.margins(x=0.12)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.grid()
        axes.set_xlabel("tokens read for a question asked alone")
        figure.canvas.draw()
        frame = axes.get_window_extent()
        places = {name: tuple(axes.transData.transform(point)) for name, point in shown.items()}
        taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
        for name in sorted(places, key=lambda name: (name in marked, -places[name][1])):
            colour = _MUTED if name in marked else _MAIN
            axes.plot(*shown[name], "o", color=colour, markersize=7)
            box = _free(places[name], _LETTER * len(name), taken, (frame.x0, frame.y0, frame.x1, frame.y1))
            taken.append(box)
            offset = box[0] - places[name][0], (box[1] + box[3]) / 2 - places[name][1]
            far = abs(offset[1]) > _LINE / 2
            axes.annotate(
                name,
                shown[name],
                offset,
                textcoords="offset pixels",
                va="center",
                arrowprops={"arrowstyle": "-", "color": colour} if far else None,
            )

    return _svg(draw, 380)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The methods that no other beats in cost and quality, cheapest first."""
    front: list[str] = []
    best = -math.inf
    for name, (_, quality) in sorted(points.items(), key=lambda point: (point[1][0], -point[1][1])):
        if quality > best:
            front.append(name)
            best = quality
    return front


def panels(drawn: Sequence[Panel], x_label: str, *, columns: int = 3, height: float = 170, legend: bool = True) -> str:
    """Panels in rows, each of a height in pixels and with the names of its lines in a legend or without."""
    rows = math.ceil(len(drawn) / columns)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(drawn):
                _draw_panel(axes, drawn[place], legend)
            else:
                axes.set_axis_off()
        figure.supxlabel(x_label)

    lines = max(len(panel.lines) for panel in drawn)
    return _svg(draw, rows * (height + (17 * lines if legend else 0)) + 24)


def _draw_panel(axes: Any, panel: Panel, legend: bool) -> None:
    for number, (name, one) in enumerate(panel.lines.items()):
        at, values = [x for x, _ in one.points], [value for _, value in one.points]
        marker = "o" if len(at) <= _MANY and not one.faint else ""
        colour = _QUIET if one.faint else _SERIES[number % len(_SERIES)]
        line = f"--{marker}" if one.faint else f"-{marker}"
        axes.plot(at, [value.value for value in values], line, color=colour, markersize=3, linewidth=1, label=name)
        if not one.faint and any(value.low < value.high for value in values):
            low, high = [value.low for value in values], [value.high for value in values]
            axes.fill_between(at, low, high, alpha=0.18, linewidth=0, color=colour)
    axes.set_title(panel.title, weight="bold", loc="left")
    axes.set_ylim(0, panel.high or 1.0)
    axes.grid(axis="y")
    if panel.logarithmic:
        axes.set_xscale("log")
        every = sorted({x for one in panel.lines.values() for x, _ in one.points})
        axes.set_xticks(every[:: math.ceil(len(every) / _TICKS)])
        axes.minorticks_off()
    else:
        axes.locator_params(axis="x", nbins=_TICKS)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, borderaxespad=0)


def _free(at: tuple[float, float], width: float, taken: Sequence[Box], frame: Box) -> Box:
    """The nearest empty place for a label of this width: left, bottom, right, top."""
    x, y = at
    for step in range(0, 400, 4):
        for start in (x + _AWAY, x - _AWAY - width):
            for middle in (y + step, y - step):
                box = (start, middle - _LINE / 2, start + width, middle + _LINE / 2)
                inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
                if inside and not any(_overlap(box, other) for other in taken):
                    return box
    return x + _AWAY, y - _LINE / 2, x + _AWAY + width, y + _LINE / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _svg(draw: Callable[[Any], None], height: float) -> str:
    """What ``draw`` puts on a figure of this height in pixels, as an SVG element."""
    figure = figure_class("eval")
    from matplotlib import rc_context

    drawn = io.StringIO()
    with rc_context(_RULES):
        page = figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        draw(page)
        page.savefig(drawn, format="svg", transparent=True)
    text = drawn.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for name, number in _NUMBERS.items():
        text = text.replace(number, f"var(--{name})")
    return text.replace("<svg ", '<svg role="img" ', 1).replace(f"'{_FONT}'", "system-ui")
