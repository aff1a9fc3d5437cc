"""What all methods share: the history they were shown, prompts that fit, and the account of what was spent."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Self

from deltamem.chat import Message
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Answer, Ask, Budget, Cost, Decoding, Entry, text_bytes
from deltamem_lab.methods.fitting import NoRoomError, fit
from deltamem_lab.peak import PeakMemory


@dataclass(frozen=True)
class Size:
    """How many tokens there are to read.

    Attributes:
        history: of the history as chat messages.
        bare: of a prompt that shows nothing of it.
        full: of one that shows as much of it as there is room for.
        unit: of a turn or document of the history, in the mean; without, they are longer than what retrieval cuts.
    """

    history: int
    bare: int
    full: int
    unit: float | None = None

    def with_found(self, pieces: int, characters: int) -> int:
        """Of a prompt that shows so many turns or passages of so many characters at most, four of them a token."""
        passage = characters / 4
        return self.with_part(pieces * (passage if self.unit is None else min(self.unit, passage)))

    def with_part(self, tokens: float) -> int:
        """Of a prompt that shows about so many tokens of the history."""
        return min(self.full, self.bare + round(tokens))


@dataclass(frozen=True)
class MethodOptions:
    """What can be chosen of the methods.

    Attributes:
        window: the most prompt tokens of ``window``; by default half of the backbone's positions, at most 4,096.
        turns: how many units retrieval brings back, k.
        unit: what a unit is: 0 for a turn, or a passage of at most some 2,000 characters; else as many turns as there
            are within so many tokens, of which long ones are cut.
        compressor: Hub id or folder of the token classifier of ``llmlingua2``, or folder of that of ``compression``;
            without one ``llmlingua2`` does not run unless it is named, and has its authors' then.
        product: of the method ``product``; see :func:`~deltamem_lab.products.load_product`.
    """

    window: int | None = None
    turns: int = 3
    unit: int = 0
    compressor: str = ""
    product: str = ""


@dataclass(frozen=True)
class Weights:
    """What was trained for a method and lies in a folder of its own, such as a LoRA.

    Attributes:
        kind: what it is called where it has no name of its own.
        found: whether a folder or Hub id holds it.
        load: puts it on a backbone, under a name.
    """

    kind: str
    found: Callable[[str], bool]
    load: Callable[[Any, str, str], Any]


class BackboneMethod(ABC):
    """A method that answers with a backbone.

    Args:
        name: as in records and tables.
        backbone: what answers.

    Attributes:
        adapted: whether it uses an adapter of the backbone, so that each adapter gives a method.
        takes_options: whether it is made with the :class:`MethodOptions` that were chosen.
        keeps_text: whether it keeps the text of the history between turns.
        weights: what was trained for it, if that is not an adapter.
    """

    stranger = False
    needs_history = True
    adapted: ClassVar[bool] = False
    takes_options: ClassVar[bool] = False
    keeps_text: ClassVar[bool] = False
    weights: ClassVar[Weights | None] = None

    @classmethod
    def build(cls, name: str, backbone: Backbone, adapter: str, options: MethodOptions, **arguments: Any) -> Self:
        """Makes it for the command line: by default from the name, the backbone, and adapter and options if it does."""
        make: Callable[..., Self] = cls
        if cls.takes_options:
            arguments["options"] = options
        return make(name, backbone, adapter, **arguments) if cls.adapted else make(name, backbone, **arguments)

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """Why it cannot run on this backbone with these options, if it cannot."""
        return ""

    def __init__(self, name: str, backbone: Backbone) -> None:
        self.name = name
        self.backbone = backbone
        self.history: list[Entry] = []
        self._seed = 0
        self._write_tokens = 0
        self._write_seconds = 0.0
        self._write_peak = 0
        self._memory = PeakMemory(backbone.model.device)

    def reset(self, seed: int) -> None:
        """Forgets everything."""
        self.history = []
        self._seed = seed
        self._write_tokens = 0
        self._write_seconds = 0.0
        self._write_peak = 0
        self.forget()

    def observe(self, history: Sequence[Entry]) -> None:
        """Reads a history, or more of it."""
        self._memory.start()
        start = time.monotonic()
        self.history += history
        self._write_tokens += self.keep(history)
        self._write_seconds += time.monotonic() - start
        self._write_peak = max(self._write_peak, self._memory.increase() or 0)

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers questions, each as if it were the only one."""
        answers: list[Answer] = []
        for _, group in groupby(asks, key=lambda ask: ask.decoding):
            answers += self._answer(list(group))
        return answers

    def estimate(self, size: Size) -> tuple[int, int]:
        """About how many tokens are written for a history, and read for each question about it."""
        return 0, size.bare

    def room(self, decoding: Decoding) -> Budget:
        """The room for a prompt."""
        return self.backbone.budget(decoding)

    def forget(self) -> None:
        """Drops what :meth:`keep` kept, if anything."""
        return

    def keep(self, history: Sequence[Entry]) -> int:
        """Receives more of a history, which is in :attr:`history` too; returns how many tokens a model read for it."""
        return 0

    @abstractmethod
    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """The part of the history that each prompt shows, and notes for the record."""

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers to prompts, all with the same decoding."""
        return self.backbone.generate(prompts, asks[0].decoding)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of what was trained for it."""
        return ""

    @property
    def stored_bytes(self) -> int:
        """What is kept of the history between turns."""
        return text_bytes(self.history) if self.keeps_text else 0

    def fitted(self, ask: Ask, shown: Sequence[Entry]) -> tuple[list[Message], bool]:
        """The prompt that shows as much of a part of the history as fits.

        Returns:
            the messages, and whether some of it was left out.

        Raises:
            NoRoomError: the question does not fit even alone; the message names it.
        """
        try:
            return fit(ask.render, shown, self.room(ask.decoding))
        except NoRoomError as error:
            raise NoRoomError(f"question {ask.question.id}: {error}") from None

    def _answer(self, asks: list[Ask]) -> list[Answer]:
        self._memory.start()
        start = time.monotonic()
        shown = self.show(asks)
        prompts = [self.fitted(ask, part) for ask, (part, _) in zip(asks, shown, strict=True)]
        said = self.say([messages for messages, _ in prompts], asks)
        share = (time.monotonic() - start) / len(asks)
        peak = max(self._write_peak, self._memory.increase() or 0)
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
                    peak_bytes=peak,
                    stored_bytes=self.stored_bytes,
                ),
                notes={**notes, **({"cut": True} if cut else {})},
            )
            for one, (_, notes), (_, cut) in zip(said, shown, prompts, strict=True)
        ]
