"""Stopping cleanly, with a checkpoint: at a signal, and where evaluations no longer get better."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopOnSignal(TrainerCallback):
    """Listens for SIGINT and SIGTERM while its context is open; a second one of the same kind acts as always.

    Attributes:
        received: the signal's number, once one of the processes has got one.
    """

    def __init__(self) -> None:
        self.received: int = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over within the block."""
        before: dict[int, Any] = {}

        def stop(number: int, frame: FrameType | None) -> None:
            self.received = number
            signal.signal(number, before[number])

        for taken in (signal.SIGINT, signal.SIGTERM):
            before[taken] = signal.signal(taken, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Asks for a checkpoint and the end, in all processes at the same step."""
        if args.world_size > 1:
            received = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
            self.received = int(received)
        if self.received:
            control.should_save = True
            control.should_training_stop = True
        return control


class Patience(EarlyStoppingCallback):
    """Ends the training, with a checkpoint, after so many evaluations without a better one.

    Args:
        early_stopping_patience: how many; the name is the stock callback's.
        early_stopping_threshold: by how much more than nothing a better one is better.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Nothing; the stock callback asks for ``load_best_model_at_end``, which a run does itself."""

    def on_evaluate(  # type: ignore[override]
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts, and asks for the end."""
        super().on_evaluate(args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        control.should_save |= control.should_training_stop

    @classmethod
    def ran_out(cls, state: TrainerState) -> bool:
        """Whether it had ended the training of which this is the saved state."""
        every: Any = state.stateful_callbacks
        saved = every.get(cls.__name__)
        if saved is None:
            return False
        counted: int = saved["attributes"]["early_stopping_patience_counter"]
        patience: int = saved["args"]["early_stopping_patience"]
        return counted >= patience
