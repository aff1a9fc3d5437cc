"""Drawings for a report, as SVG without any script: bars by category, and cost against quality."""

import math
from collections.abc import Mapping, Sequence

from deltamem_lab.report.svg import GRID, INK, MAIN, MUTED, WIDTH, dot, line, path, svg, text
from deltamem_lab.statistics import Interval

_BAR, _GAP, _LABEL = 14, 4, 190
# Of a label: about the width of a letter, the height of its line, and how far it stands from its point.
_LETTER, _LINE, _AWAY = 6.8, 13, 9
Box = tuple[float, float, float, float]


def category_bars(categories: Mapping[str, Mapping[str, Interval]], marked: frozenset[str]) -> str:
    """For each category a bar for each method, from 0 to 1, with 95 % intervals.

    Args:
        categories: by category and method.
        marked: the methods that are drawn in grey, such as controls.
    """
    parts: list[str] = []
    y = 0
    for category, methods in categories.items():
        parts.append(text(0, y + 14, category, bold=True))
        y += 22
        for method, interval in methods.items():
            parts += _bar(y, method, interval, MUTED if method in marked else MAIN)
            y += _BAR + _GAP
        y += 12
    return svg(WIDTH, y, parts)


def pareto(points: Mapping[str, tuple[float, float]], marked: frozenset[str]) -> str:
    """Methods by cost and quality; those that no other beats in both are joined by a line.

    Args:
        points: for each method its cost, above zero and drawn on a logarithmic axis, and its quality in [0, 1].
        marked: the methods that are drawn in grey and left out of the line.
    """
    width, height, left, bottom = WIDTH, 380, 60, 45
    costs = [max(cost, 1.0) for cost, _ in points.values()]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs) * 1.01))
    span = max(high - low, 1)

    def x(cost: float) -> float:
        return left + (math.log10(max(cost, 1.0)) - low) / span * (width - left - 130)

    def y(quality: float) -> float:
        return 15 + (1 - quality) * (height - bottom - 15)

    parts = [
        *(line(left, y(tick), width, y(tick), GRID) for tick in (0, 0.25, 0.5, 0.75, 1)),
        *(text(left - 8, y(tick) + 4, f"{100 * tick:.0f} %", anchor="end") for tick in (0, 0.25, 0.5, 0.75, 1)),
        *(line(x(10**power), 15, x(10**power), height - bottom, GRID) for power in range(low, low + span + 1)),
        *(
            text(x(10**power), height - bottom + 18, f"{10**power:,}", anchor="middle")
            for power in range(low, low + span + 1)
        ),
        text((left + width) / 2, height - 8, "tokens read for a question asked alone", anchor="middle"),
    ]
    front = pareto_front({name: point for name, point in points.items() if name not in marked})
    parts.append(path([(x(points[name][0]), y(points[name][1])) for name in front], MAIN, dashed=True))
    places = {name: (x(cost), y(quality)) for name, (cost, quality) in points.items()}
    taken = [(at_x - 5, at_y - 5, at_x + 5, at_y + 5) for at_x, at_y in places.values()]
    for name in sorted(places, key=lambda name: (name in marked, places[name][1])):
        at = places[name]
        colour = MUTED if name in marked else MAIN
        parts.append(dot(*at, colour, 5))
        box = _free(at, _LETTER * len(name), taken, height - bottom)
        taken.append(box)
        middle, left_of = (box[1] + box[3]) / 2, box[2] < at[0]
        if abs(middle - at[1]) > _LINE / 2:
            parts.append(line(*at, box[2] if left_of else box[0], middle, colour))
        parts.append(text(box[2], middle + 4, name, anchor="end") if left_of else text(box[0], middle + 4, name))
    return svg(width, height, parts)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The methods that no other beats in cost and quality, cheapest first."""
    front: list[str] = []
    best = -math.inf
    for name, (_, quality) in sorted(points.items(), key=lambda point: (point[1][0], -point[1][1])):
        if quality > best:
            front.append(name)
            best = quality
    return front


def _free(at: tuple[float, float], width: float, taken: Sequence[Box], floor: float) -> Box:
    """The nearest empty place for a label of this width: left, top, right, bottom."""
    x, y = at
    for step in range(0, 400, 4):
        for start in (x + _AWAY, x - _AWAY - width):
            for middle in (y + step, y - step):
                box = (start, middle - _LINE / 2, start + width, middle + _LINE / 2)
                inside = box[0] >= 0 and box[2] <= WIDTH and box[1] >= 0 and box[3] <= floor
                if inside and not any(_overlap(box, other) for other in taken):
                    return box
    return x + _AWAY, y - _LINE / 2, x + _AWAY + width, y + _LINE / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _bar(y: float, method: str, interval: Interval, colour: str) -> list[str]:
    scale = WIDTH - _LABEL - 60
    low, high = _LABEL + interval.low * scale, _LABEL + interval.high * scale
    middle = y + _BAR / 2
    return [
        text(_LABEL - 8, y + 11, method, anchor="end"),
        f'<rect x="{_LABEL}" y="{y}" width="{max(interval.value * scale, 0.5):.1f}" height="{_BAR}" fill="{colour}"/>',
        line(low, middle, high, middle, INK),
        text(max(high, _LABEL) + 6, y + 11, f"{100 * interval.value:.0f}"),
    ]
