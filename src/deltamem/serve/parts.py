"""An answer in parts, texts and calls of tools, as OpenAI's Responses and Anthropic's Messages give it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from deltamem.serve.tools import Argued, Called, CallReader, Event, Said

Pieces = AsyncIterator[tuple[int, str, Any]]  # as generations give them


class AnswerParts(ABC):
    """The parts of an answer, as they come; each dialect has its own.

    Args:
        reader: reads calls out of what the model says; ``None`` where it was told of no tools.

    Attributes:
        parts: those that have begun.
    """

    def __init__(self, reader: CallReader | None) -> None:
        self.parts: list[dict[str, Any]] = []
        self._reader = reader
        self._open: type[Event] | None = None  # what the last part is of, until it ends

    async def events(self, pieces: Pieces) -> AsyncIterator[dict[str, Any]]:
        """What tells of an answer, from the pieces that are generated."""
        async for _, text, _ in pieces:
            for event in self._take(self._reader.push(text) if self._reader else [Said(text)]):
                yield event
        for event in self._finish():
            yield event

    async def read(self, pieces: Pieces) -> None:
        """Takes a whole answer in."""
        async for _ in self.events(pieces):
            pass

    def _take(self, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
        for event in events:
            if isinstance(event, Called):
                yield from self._end()
                self._open = Called
                yield from self.begin_call(event)
            elif isinstance(event, Argued):
                yield self.argue(event.text)
            elif event.text:
                if self._open is not Said:
                    yield from self._begin_text()
                yield self.say(event.text)

    def _finish(self) -> Iterator[dict[str, Any]]:
        yield from self._take(self._reader.finish() if self._reader else [])
        if not self.parts:
            yield from self._begin_text()
        yield from self._end()

    def _begin_text(self) -> Iterator[dict[str, Any]]:
        yield from self._end()
        self._open = Said
        yield from self.begin_text()

    def _end(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            self._open = None
            yield from self.end()

    @abstractmethod
    def begin_text(self) -> Iterator[dict[str, Any]]:
        """Begins a text."""

    @abstractmethod
    def begin_call(self, call: Called) -> Iterator[dict[str, Any]]:
        """Begins a call."""

    @abstractmethod
    def say(self, text: str) -> dict[str, Any]:
        """Adds to a text."""

    @abstractmethod
    def argue(self, text: str) -> dict[str, Any]:
        """Adds to the arguments of a call."""

    @abstractmethod
    def end(self) -> Iterator[dict[str, Any]]:
        """Ends what is open."""
