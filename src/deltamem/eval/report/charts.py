"""Drawings for a report, as SVG without any script: bars by category, and cost against quality."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from deltamem.eval.statistics import Interval

_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
_BAR, _GAP, _LABEL, _WIDTH = 14, 4, 190, 760
_BLUE, _GREY, _DARK = "#0072B2", "#b8b8b8", "#333333"


def category_bars(categories: Mapping[str, Mapping[str, Interval]], marked: frozenset[str]) -> str:
    """For each category a bar for each method, from 0 to 1, with 95 % intervals.

    Args:
        categories: by category and method.
        marked: the methods that are drawn in grey, such as controls.
    """
    parts: list[str] = []
    y = 0
    for category, methods in categories.items():
        parts.append(_text(0, y + 14, category, bold=True))
        y += 22
        for method, interval in methods.items():
            parts += _bar(y, method, interval, _GREY if method in marked else _BLUE)
            y += _BAR + _GAP
        y += 12
    return _svg(_WIDTH, y, parts)


def pareto(points: Mapping[str, tuple[float, float]], marked: frozenset[str]) -> str:
    """Methods by cost and quality; those that no other beats in both are joined by a line.

    Args:
        points: for each method its cost, above zero and drawn on a logarithmic axis, and its quality in [0, 1].
        marked: the methods that are drawn in grey and left out of the line.
    """
    width, height, left, bottom = _WIDTH, 380, 60, 45
    costs = [max(cost, 1.0) for cost, _ in points.values()]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs) * 1.01))
    span = max(high - low, 1)

    def x(cost: float) -> float:
        return left + (math.log10(max(cost, 1.0)) - low) / span * (width - left - 130)

    def y(quality: float) -> float:
        return 15 + (1 - quality) * (height - bottom - 15)

    parts = [
        *(_line(left, y(tick), width, y(tick), "#eeeeee") for tick in (0, 0.25, 0.5, 0.75, 1)),
        *(_text(left - 8, y(tick) + 4, f"{100 * tick:.0f} %", anchor="end") for tick in (0, 0.25, 0.5, 0.75, 1)),
        *(_line(x(10**power), 15, x(10**power), height - bottom, "#eeeeee") for power in range(low, low + span + 1)),
        *(
            _text(x(10**power), height - bottom + 18, f"{10**power:,}", anchor="middle")
            for power in range(low, low + span + 1)
        ),
        _text((left + width) / 2, height - 8, "tokens through the model for a question", anchor="middle"),
    ]
    front = pareto_front({name: point for name, point in points.items() if name not in marked})
    path = " ".join(f"{x(points[name][0]):.1f},{y(points[name][1]):.1f}" for name in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-dasharray="4 3"/>')
    taken: list[tuple[float, float]] = []
    for name, (cost, quality) in sorted(points.items(), key=lambda point: (point[0] in marked, -point[1][1])):
        at = (x(cost), y(quality))
        colour = _GREY if name in marked else _BLUE
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5" fill="{colour}"/>')
        label = _free(at, taken)
        taken.append(label)
        if label != at:
            parts.append(_line(*at, label[0] + 7, label[1], colour))
        parts.append(_text(label[0] + 8, label[1] + 4, name))
    return _svg(width, height, parts)


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
    scale = _WIDTH - _LABEL - 60
    low, high = _LABEL + interval.low * scale, _LABEL + interval.high * scale
    middle = y + _BAR / 2
    return [
        _text(_LABEL - 8, y + 11, method, anchor="end"),
        f'<rect x="{_LABEL}" y="{y}" width="{max(interval.value * scale, 0.5):.1f}" height="{_BAR}" fill="{colour}"/>',
        _line(low, middle, high, middle, _DARK),
        _text(max(high, _LABEL) + 6, y + 11, f"{100 * interval.value:.0f}"),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{_DARK}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img">{"".join(parts)}</svg>'
    )
