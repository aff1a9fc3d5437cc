"""Drawings for a report, as SVG without any script: bars by category, and cost against quality."""

import math
from collections.abc import Mapping, Sequence

from deltamem.eval.report.svg import GRID, INK, MAIN, MUTED, WIDTH, dot, line, path, svg, text
from deltamem.eval.statistics import Interval

_BAR, _GAP, _LABEL = 14, 4, 190


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
        text((left + width) / 2, height - 8, "tokens through the model for a question", anchor="middle"),
    ]
    front = pareto_front({name: point for name, point in points.items() if name not in marked})
    parts.append(path([(x(points[name][0]), y(points[name][1])) for name in front], MAIN, dashed=True))
    taken: list[tuple[float, float]] = []
    for name, (cost, quality) in sorted(points.items(), key=lambda point: (point[0] in marked, -point[1][1])):
        at = (x(cost), y(quality))
        colour = MUTED if name in marked else MAIN
        parts.append(dot(*at, colour, 5))
        label = _free(at, taken)
        taken.append(label)
        if label != at:
            parts.append(line(*at, label[0] + 7, label[1], colour))
        parts.append(text(label[0] + 8, label[1] + 4, name))
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


def _free(at: tuple[float, float], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A place for a label near a point, below those that are taken."""
    x, y = at
    while any(abs(x - other_x) < 120 and abs(y - other_y) < 13 for other_x, other_y in taken):
        y += 3
    return x, y


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
