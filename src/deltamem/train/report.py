"""What a run tells: progress lines, the training section of the model card, and the picture of losses and recall."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from deltamem.figures import figure_class, write_png
from deltamem.rates import wilson
from deltamem.train.measure import Measured

_SHOWN = {
    "nothing_loss": "nothing (bare backbone, the query alone)",
    "own_loss": "the memory of its own history",
    "other_loss": "the memory of another history",
    "static_loss": "static control (trained on others' memories only)",
    "full_loss": "full text (bare backbone)",
}
_SHARES = ("recovered_share", "memory_share")
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


class ProgressLines(TrainerCallback):
    """A line on stderr for every logged step and every evaluation, from the main process."""

    def __init__(self, title: str = "") -> None:
        super().__init__()
        self._title = title
        self._began, self._first = time.monotonic(), 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Says what is trained."""
        super().on_train_begin(args, state, control, **kwargs)
        self._began, self._first = time.monotonic(), state.global_step
        if self._title and state.is_world_process_zero:
            self._say(self._title)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints what is new."""
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._say(
                f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  recall {logs['recall']:.3f}  "
                f"rate {logs['learning_rate']:.1e}{self._pace(state, logs)}"
            )
        elif "eval_own_loss" in logs:
            shares = [f"{name} {logs[f'eval_{name}']:.3f}" for name in _SHARES if f"eval_{name}" in logs]
            losses = f"held-out loss {logs['eval_own_loss']:.4f}  recall {logs['eval_recall']:.3f}"
            self._say(f"step {state.global_step}  {losses}  {'  '.join(shares)}")

    def _pace(self, state: TrainerState, logs: dict[str, float]) -> str:
        """Tokens a second, and how long the rest takes at the pace so far, evaluations included."""
        done = state.global_step - self._first
        speed = f"  {logs['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in logs else ""
        if not done:
            return speed
        left = round((time.monotonic() - self._began) / done * (state.max_steps - state.global_step))
        return f"{speed}  {timedelta(seconds=left)} left"

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class ProgressLinesAndBar(ProgressLines, ProgressCallback):
    """The same above the stock bar, for a terminal."""

    def _say(self, line: str) -> None:
        bar: Any = self.training_bar
        bar.write(line, file=sys.stderr)


def measured_table(measured: Measured) -> str:
    """The held-out losses as a Markdown table, and what they come to."""
    values = measured.metrics()
    shares = {name: measured.share(values[name]) for name in _SHOWN if name in values}
    rows = [
        f"| {_SHOWN[name]} | {values[name]:.4f} | {'–' if share is None else f'{share:.3f}'} |"
        for name, share in shares.items()
    ]
    low, high = wilson(measured.right, measured.queries)
    counts = f"{measured.right:,} of {measured.queries:,} queries"
    recall = f"Recall: {measured.recall:.3f} ({low:.2f}–{high:.2f}), {counts}."
    head = "| with | loss, nats a token | share of the gap nothing → full text |\n|---|---|---|"
    return f"{head}\n{chr(10).join(rows)}\n\n{recall} {_claim(measured)}"


def _claim(measured: Measured) -> str:
    """What of the gain is memory, or why that cannot be told."""
    share, interval = measured.memory_share, measured.memory_interval
    if measured.static is None:
        return "No static control was trained, so these numbers do not tell how much of the gain is memory."
    if share is None:
        return "The text helps the bare backbone so little that there is no gap to have a share of."
    size = f"{measured.queries:,} queries of {measured.episodes:,} episodes"
    if interval is None:
        return (
            f"Cannot tell how much of the gain is memory: {share:.3f} of the gap (static control − own memory), but "
            f"{size} are too few for an interval. Hold out more."
        )
    found = f"{share:.3f} of the gap, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
    if interval[0] <= 0 <= interval[1]:
        return f"Cannot tell whether any of the gain is memory: {found}, from {size} (static control − own memory)."
    if interval[1] < 0:
        return f"The memory does harm: {found}, from {size} (static control − own memory)."
    return f"**Memory: {found}**, from {size} (static control − own memory); only this share is memory."


def training_section(recipe: str, measured: Measured | None, steps: int) -> str:
    """The model card's section on how the adapter was made and what it was worth on held-out episodes."""
    numbers = f"\n## Measured on held-out episodes\n\n{measured_table(measured)}\n" if measured else ""
    return f"{numbers}\n## Training\n\n{steps} updates by this recipe:\n\n```yaml\n{recipe}```\n"


def draw_training(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the log of a training as a PNG.

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
