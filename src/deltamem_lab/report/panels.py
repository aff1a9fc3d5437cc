"""Drawings of lines for a report: small panels with axes of their own, side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deltamem_lab.report.svg import GRID, QUIET, SERIES, WIDTH, area, dot, line, path, svg, text
from deltamem_lab.statistics import Interval

_TOP, _BOTTOM, _LEFT, _RIGHT = 24, 40, 50, 12
_LEGEND = 16
_TICK_ROOM = 30
_MANY = 12


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
        ticks: the places on the x axis that are labelled.
        low: the lowest value drawn.
        high: the highest.
        logarithmic: whether the x axis is, from 1.
    """

    title: str
    lines: Mapping[str, Line]
    ticks: Sequence[float] = ()
    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False


def panels(drawn: Sequence[Panel], x_label: str, *, columns: int = 3, height: float = 170, legend: bool = True) -> str:
    """Panels in rows.

    Args:
        drawn: the panels.
        x_label: what all x axes are of.
        columns: how many stand side by side.
        height: of each.
        legend: whether each names its lines below it.
    """
    width = WIDTH / columns
    parts: list[str] = []
    top = 0.0
    for start in range(0, len(drawn), columns):
        row = drawn[start : start + columns]
        for number, panel in enumerate(row):
            parts += _panel(panel, number * width, top, width, height, legend)
        top += height + _LEGEND * (max(len(panel.lines) for panel in row) if legend else 0)
    parts.append(text(WIDTH / 2, top + 14, x_label, anchor="middle"))
    return svg(WIDTH, top + 20, parts)


def _panel(panel: Panel, left: float, top: float, width: float, height: float, legend: bool) -> list[str]:
    start, end = left + _LEFT, left + width - _RIGHT
    floor, ceiling = top + height - _BOTTOM, top + _TOP
    places = [*panel.ticks, *(x for one in panel.lines.values() for x, _ in one.points)]

    def scale(value: float) -> float:
        return math.log(max(value, 1.0)) if panel.logarithmic else value

    least, most = scale(min(places)), scale(max(places))

    def x(value: float) -> float:
        return start + (scale(value) - least) / ((most - least) or 1) * (end - start)

    def y(value: float) -> float:
        share = (value - panel.low) / ((panel.high - panel.low) or 1)
        return floor - min(max(share, 0.0), 1.0) * (floor - ceiling)

    parts = [text(start, top + 14, panel.title, bold=True)]
    for value in (panel.low, (panel.low + panel.high) / 2, panel.high):
        parts.append(line(start, y(value), end, y(value), GRID))
        parts.append(text(start - 6, y(value) + 4, f"{value:.2g}", anchor="end"))
    last = -math.inf
    for tick in panel.ticks:
        if x(tick) - last >= _TICK_ROOM:
            last = x(tick)
            parts.append(text(last, floor + 16, f"{tick:,.0f}", anchor="middle"))
    for number, (name, one) in enumerate(sorted(panel.lines.items(), key=lambda item: not item[1].faint)):
        place = list(panel.lines).index(name)
        colour = QUIET if one.faint else SERIES[place % len(SERIES)]
        parts += _drawn(one, [(x(at), value) for at, value in one.points], y, colour)
        if legend:
            below = floor + 30 + _LEGEND * number
            parts += [line(start, below, start + 16, below, colour), text(start + 22, below + 4, name)]
    return parts


def _drawn(one: Line, points: Sequence[tuple[float, Interval]], y: Callable[[float], float], colour: str) -> list[str]:
    middle = [(x, y(value.value)) for x, value in points]
    parts = [path(middle, colour, dashed=one.faint)]
    if any(value.low < value.high for _, value in points) and not one.faint:
        upper = [(x, y(value.high)) for x, value in points]
        parts.insert(0, area([*upper, *((x, y(value.low)) for x, value in reversed(points))], colour))
    if len(points) <= _MANY and not one.faint:
        parts += [dot(*place, colour, 2.5) for place in middle]
    return parts
