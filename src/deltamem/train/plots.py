"""The picture of a training: loss and recall by step, and what the held-out episodes say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltamem.figures import figure_class, write_png

# Colours that stay apart for the colour-blind (M. Okabe and K. Ito, 2008).
_LOSSES = {
    "loss": ("training", "#999999", "-"),
    "eval_nothing_loss": ("held out: nothing", "#000000", ":"),
    "eval_static_loss": ("held out: static control", "#CC79A7", "--"),
    "eval_other_loss": ("held out: another's memory", "#E69F00", "-"),
    "eval_own_loss": ("held out: own memory", "#0072B2", "-"),
    "eval_full_loss": ("held out: full text", "#000000", "--"),
}
_RECALL = {"recall": ("training", "#999999", "-"), "eval_recall": ("held out", "#0072B2", "-")}


def draw_training(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the log of a training as a PNG.

    Args:
        history: what was logged, each with its ``step``.
        path: the file.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure = figure_class("train")(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, history, _LOSSES)
    left.set(xlabel="step", ylabel="loss, nats a token")
    _lines(right, history, _RECALL)
    right.set(xlabel="step", ylabel="recall", ylim=(-0.02, 1.02))
    write_png(figure, path)


def _lines(axes: Any, history: Sequence[dict[str, Any]], styles: dict[str, tuple[str, str, str]]) -> None:
    for name, (label, colour, style) in styles.items():
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, marker="." * (len(points) < 12))
    if axes.lines:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
