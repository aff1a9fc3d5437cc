"""What all methods share: the history they were shown, prompts that fit, and the account of what was spent."""

import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch

from deltamem.chat import Message
from deltamem.eval.backbone import Backbone, Generated
from deltamem.eval.interface import Answer, Ask, Cost, Entry
from deltamem.eval.methods.fitting import fit


class BackboneMethod(ABC):
    """A method that answers with a backbone.

    Args:
        name: as in records and tables.
        backbone: what answers.
    """

    stranger = False
    needs_history = True

    def __init__(self, name: str, backbone: Backbone) -> None:
        self.name = name
        self.backbone = backbone
        self.history: list[Entry] = []
        self._seed = 0
        self._write_tokens = 0
        self._write_seconds = 0.0

    def reset(self, seed: int) -> None:
        """Forgets everything."""
        self.history = []
        self._seed = seed
        self._write_tokens = 0
        self._write_seconds = 0.0
        self.forget()

    def observe(self, history: Sequence[Entry]) -> None:
        """Reads a history, or more of it."""
        start = time.monotonic()
        self.history += history
        self._write_tokens += self.keep(history)
        self._write_seconds += time.monotonic() - start

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers questions, each as if it were the only one."""
        answers: list[Answer] = []
        for _, group in groupby(asks, key=lambda ask: ask.decoding):
            answers += self._answer(list(group))
        return answers

    def estimate(self, history: int, question: int) -> tuple[int, int]:
        """About how many tokens are written for a history, and read for each question about it."""
        return 0, question

    def forget(self) -> None:
        """Drops what :meth:`keep` kept, if anything."""
        return

    def keep(self, history: Sequence[Entry]) -> int:
        """Takes in more of a history, which is in :attr:`history` too; how many tokens a model read for it."""
        return 0

    @abstractmethod
    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """The part of the history that each prompt shows, and notes for the record."""

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers to prompts, all of which are decoded alike."""
        return self.backbone.generate(prompts, asks[0].decoding)

    @property
    def stored_bytes(self) -> int:
        """What is kept of the history between turns."""
        return 0

    def fitted(self, ask: Ask, shown: Sequence[Entry], most: int | None = None) -> tuple[list[Message], bool]:
        """The prompt that shows as much of the history's end as there is room, at most ``most`` tokens of prompt.

        Returns:
            the messages, and whether some of the history was left out.
        """
        room = self.backbone.budget(ask.decoding).tokens
        limit = min(n for n in (room, most) if n is not None) if room or most else None
        return fit(ask.render, shown, self.backbone.length, self.backbone.count, limit)

    def _answer(self, asks: list[Ask]) -> list[Answer]:
        start = time.monotonic()
        with self._peak() as peak:
            shown = self.show(asks)
            prompts = [self.fitted(ask, part) for ask, (part, _) in zip(asks, shown, strict=True)]
            said = self.say([messages for messages, _ in prompts], asks)
        share = (time.monotonic() - start) / len(asks)
        return [
            Answer(
                text=one.text,
                prompt=one.prompt,
                cost=Cost(
                    write_tokens=self._write_tokens,
                    write_seconds=round(self._write_seconds, 6),
                    prompt_tokens=one.prompt_tokens,
                    new_tokens=one.new_tokens,
                    answer_seconds=round(share, 6),
                    peak_bytes=peak[0],
                    stored_bytes=self.stored_bytes,
                ),
                notes={**notes, **({"cut": True} if cut else {})},
            )
            for one, (_, notes), (_, cut) in zip(said, shown, prompts, strict=True)
        ]

    @contextmanager
    def _peak(self) -> Iterator[list[int]]:
        """A list that holds the peak memory in bytes after the block."""
        found = [0]
        cuda = self.backbone.model.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        yield found
        if cuda:
            found[0] = torch.cuda.max_memory_allocated()
        else:
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found[0] = resident if sys.platform == "darwin" else resident * 1024
