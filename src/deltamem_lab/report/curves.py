"""Forgetting curves: the score against the numbers that come with the questions, such as how long ago it was told."""

from collections.abc import Mapping, Sequence

import numpy as np

from deltamem_lab.methods import describe_method, is_control
from deltamem_lab.records import Record
from deltamem_lab.report.blocks import Block, Chart, Heading, Table
from deltamem_lab.report.charts import Line, Panel, panels
from deltamem_lab.statistics import Interval
from deltamem_lab.summary import mean_score

_BINS = 6
_COMPARED = "full"
Range = tuple[float, float]


def curves(records: Sequence[Record], methods: Sequence[str]) -> list[Block]:
    """A drawing and a table for each axis that the questions of a task have, without controls."""
    shown = [name for name in methods if not is_control(name)]
    axes = dict.fromkeys(axis for record in records for axis in record.axes)
    return [block for axis in axes for block in _axis(axis, [r for r in records if axis in r.axes], shown)]


def bins(values: Sequence[float]) -> list[Range]:
    """Ranges, both ends included, that part values: one for each if there are few, else of about as many each."""
    distinct = sorted(set(values))
    if len(distinct) <= _BINS:
        return [(value, value) for value in distinct]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1), method="lower")).tolist()
    starts = [edges[0], *(next(value for value in distinct if value > edge) for edge in edges[1:-1])]
    return list(zip(starts, edges[1:], strict=True))


def curve(records: Sequence[Record], axis: str, parts: Sequence[Range]) -> dict[Range, tuple[float, Interval]]:
    """For each range that has questions the mean of their numbers, and their mean score."""
    points: dict[Range, tuple[float, Interval]] = {}
    for low, high in parts:
        inside = [record for record in records if low <= record.axes[axis] <= high]
        if inside:
            at = sum(record.axes[axis] for record in inside) / len(inside)
            points[low, high] = at, mean_score(inside)
    return points


def _axis(axis: str, records: Sequence[Record], methods: Sequence[str]) -> list[Block]:
    asked = {(record.item, record.question, record.seed): record.axes[axis] for record in records}
    parts = bins(list(asked.values()))
    found = {name: curve([r for r in records if r.method == name], axis, parts) for name in methods}
    found = {name: points for name, points in found.items() if points}
    if len(parts) < 2 or not found:
        return []
    compared = f" The dashed line is {describe_method(_COMPARED)}." if _COMPARED in found else ""
    caption = (
        f"{records[0].main_metric}, from 0 to 1, against {axis}, with 95 % intervals.{compared} Ranges may differ in "
        "more than this: in a longer history, what was told first is further back."
    )
    rows = [[name, *(_cell(points.get(part)) for part in parts)] for name, points in found.items()]
    return [
        Heading(f"Score against {axis}, %", 3),
        Chart(panels([_panel(name, found) for name in found], axis, columns=4, height=150, legend=False), caption),
        Table(["method", *map(_range, parts)], rows),
    ]


def _panel(name: str, found: Mapping[str, Mapping[Range, tuple[float, Interval]]]) -> Panel:
    points = list(found[name].values())
    lines = {name: Line(points)}
    if _COMPARED in found and name != _COMPARED:
        lines[_COMPARED] = Line(list(found[_COMPARED].values()), faint=True)
    return Panel(name, lines, logarithmic=True)


def _range(part: Range) -> str:
    low, high = part
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _cell(found: tuple[float, Interval] | None) -> str:
    return "–" if found is None else f"{100 * found[1].value:.1f}"
