"""Learning curves: what training runs logged, drawn beside the evaluation of what came of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem_lab.report.blocks import Block, Chart, Heading, Paragraph, Table
from deltamem_lab.report.charts import Line, Panel, panels
from deltamem_lab.statistics import Interval

_HISTORY, _RECORD = "history.json", "training.json"
_POINTS = 50
# What is logged, and what it is called; the panels that share an axis.
_LOSS = {
    "loss": "training",
    "eval_own_loss": "held out: own memory",
    "eval_static_loss": "held out: static control",
    "eval_other_loss": "held out: another's memory",
    "eval_nothing_loss": "held out: nothing",
    "eval_full_loss": "held out: full text",
}
_RECALL = {"recall": "training", "eval_recall": "held out"}
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class TrainingLog:
    """What a training logged.

    Attributes:
        name: of its folder.
        loss: by what was measured, the updates and the loss in nats a token.
        recall: the same of the share of the answers that are right to the last token.
    """

    name: str
    loss: Mapping[str, Points]
    recall: Mapping[str, Points]


def is_training(folder: Path) -> bool:
    """Whether a folder has the log of a training."""
    return any((folder / name).is_file() for name in (_HISTORY, _RECORD))


def read_training(folder: Path) -> TrainingLog:
    """The log of a training: of ``deltamem train``, or of ``deltamem baseline``, whose losses are means of many.

    Raises:
        ValueError: the log is damaged; the message names it.
    """
    path = folder / (_HISTORY if (folder / _HISTORY).is_file() else _RECORD)
    try:
        logged: Any = json.loads(path.read_text("utf-8"))
        if path.name == _RECORD:
            return TrainingLog(folder.name, {_LOSS["loss"]: _means(logged.get("losses", []))}, {})
        return TrainingLog(folder.name, _named(logged, _LOSS), _named(logged, _RECALL))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a training log: {error}; train again, or leave the folder out.") from None


def learning(trainings: Sequence[TrainingLog]) -> list[Block]:
    """A heading, drawings and a table of where each training began and ended."""
    drawn = [panel for training in trainings for panel in _panels(training)]
    if not drawn:
        return []
    caption = (
        "Loss in nats a token, and recall, the share of the answers that are right to the last token, against updates. "
        "The static control is measured once, at its end."
    )
    return [
        Heading("Training"),
        Paragraph("How what is trained here got there: the first and the last number that was logged of each."),
        Chart(panels(drawn, "updates", columns=3, height=190), caption),
        Table(["training", "number", "first", "last", "updates"], [row for one in trainings for row in _rows(one)]),
    ]


def _named(logged: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Points]:
    found = {
        label: [(float(entry["step"]), float(entry[name])) for entry in logged if name in entry]
        for name, label in names.items()
    }
    return {label: points for label, points in found.items() if points}


def _means(losses: Sequence[float]) -> Points:
    """Means of as many updates each, at the last of them, so that the noise of single updates does not hide the way."""
    size = max(1, round(len(losses) / _POINTS))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [(min((number + 1) * size, len(losses)), sum(part) / len(part)) for number, part in enumerate(parts)]


def _panels(training: TrainingLog) -> list[Panel]:
    drawn = []
    for what, lines in (("loss", training.loss), ("recall", training.recall)):
        values = [value for points in lines.values() for _, value in points]
        if values:
            high = 1.0 if what == "recall" else max(values)
            shown = {name: Line([(x, Interval(y, y, y)) for x, y in points]) for name, points in lines.items()}
            drawn.append(Panel(f"{training.name}: {what}", shown, high))
    return drawn


def _rows(training: TrainingLog) -> list[list[str]]:
    return [
        [training.name, f"{what}, {name}", f"{points[0][1]:.3f}", f"{points[-1][1]:.3f}", f"{points[-1][0]:,.0f}"]
        for what, lines in (("loss", training.loss), ("recall", training.recall))
        for name, points in lines.items()
        if points
    ]
