"""What a run tells: progress lines, and the training section of the model card."""

import sys
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from deltamem.train.measure import Measured

_SHOWN = {
    "nothing_loss": "nothing (bare backbone, the query alone)",
    "own_loss": "the memory of its own history",
    "other_loss": "the memory of another history",
    "static_loss": "static control (trained on others' memories only)",
    "full_loss": "full text (bare backbone)",
}
_SHARES = ("recovered_share", "memory_share")


class Progress(ProgressCallback):
    """A line on stderr for every logged step and every evaluation, from the main process; on a terminal also a bar.

    Args:
        bar: whether there is a bar.
    """

    def __init__(self, *, bar: bool) -> None:
        super().__init__()
        self._bar = bar

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows the bar."""
        if self._bar:
            super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar on."""
        if self._bar:
            super().on_step_end(args, state, control, **kwargs)  # type: ignore[no-untyped-call]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the bar."""
        if self._bar:
            super().on_train_end(args, state, control, **kwargs)  # type: ignore[no-untyped-call]

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
                f"rate {logs['learning_rate']:.1e}"
            )
        elif "eval_own_loss" in logs:
            shares = [f"{name} {logs[f'eval_{name}']:.3f}" for name in _SHARES if f"eval_{name}" in logs]
            losses = f"held-out loss {logs['eval_own_loss']:.4f}  recall {logs['eval_recall']:.3f}"
            self._say(f"step {state.global_step}  {losses}  {'  '.join(shares)}")

    def _say(self, line: str) -> None:
        bar: Any = self.training_bar
        if bar is not None:
            bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def measured_table(measured: Measured) -> str:
    """The held-out losses as a Markdown table, and what they come to."""
    values = measured.metrics()
    shares = {name: measured.share(values[name]) for name in _SHOWN if name in values}
    rows = [
        f"| {_SHOWN[name]} | {values[name]:.4f} | {'–' if share is None else f'{share:.3f}'} |"
        for name, share in shares.items()
    ]
    if measured.static is None:
        claim = "No static control was trained, so these numbers do not tell how much of the gain is memory."
    elif measured.memory_share is None:
        claim = "The text helps the bare backbone so little that there is no gap to have a share of."
    else:
        claim = (
            f"**Memory: {measured.memory_share:.3f} of the gap** (static control − own memory); only this share is "
            "memory."
        )
    head = "| with | loss, nats a token | share of the gap nothing → full text |\n|---|---|---|"
    return f"{head}\n{chr(10).join(rows)}\n\nRecall: {measured.recall:.3f} of the queries. {claim}"


def training_section(recipe: str, measured: Measured | None, steps: int) -> str:
    """The model card's section on how the adapter was made and what it was worth on held-out episodes."""
    numbers = f"\n## Measured on held-out episodes\n\n{measured_table(measured)}\n" if measured else ""
    return f"{numbers}\n## Training\n\n{steps} updates by this recipe:\n\n```yaml\n{recipe}```\n"
