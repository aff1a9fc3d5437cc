"""Stopping cleanly: a signal ends the training after the step it is in, with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


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
