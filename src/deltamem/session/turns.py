"""A turn from its draft to its report, and what it takes to undo it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deltamem.attach.cache import MemoryCache
from deltamem.chat import Message
from deltamem.session.retrieval import Exchange
from deltamem.session.reuse import ReadText
from deltamem.state import MemoryState


class SessionBusyError(RuntimeError):
    """A session was called while one of its turns was running."""


@dataclass(frozen=True)
class TurnReport:
    """What one turn did: a reply, or something observed.

    Attributes:
        answer: the reply; empty for something observed.
        prompt_tokens: how many tokens the prompt had.
        reused_tokens: how many of them were in the key-value cache already and were not read again.
        written_tokens: how many tokens were written to memory.
        left: the messages that were visible before or during this turn, and are not visible after it.
        retrieved: the past turns that a retriever brought back.
        change: ``[L, N]``, the Frobenius norm of the change of every state of every adapted layer.
        seconds: how long the turn took.
    """

    answer: str
    prompt_tokens: int
    reused_tokens: int
    written_tokens: int
    left: tuple[Message, ...]
    retrieved: tuple[Exchange, ...]
    change: Tensor
    seconds: float


@dataclass(frozen=True)
class Draft:
    """A turn about to be answered.

    Attributes:
        new: the messages to answer.
        past: the visible messages that the prompt shows.
        retrieved: the past turns brought back.
        prompt: ``[1, T]``.
        cache: the memory that answers, with the keys and values of the first ``reused`` tokens.
        reused: how many these are.
        keep: whether the next turn may continue from the cache.
        options: for ``generate``.
        start: when the turn began, on the monotonic clock.
    """

    new: list[Message]
    past: list[Message]
    retrieved: list[Exchange]
    prompt: Tensor
    cache: MemoryCache
    reused: int
    keep: bool
    options: dict[str, Any]
    start: float


@dataclass(frozen=True)
class KeptTurn:
    """A turn that was written, with its text.

    Attributes:
        messages: what was written; ``None`` for a document that came in pieces, whose text is not kept.
        document: whether they are one text that was written as a document.
        before: the memory that it was written to.
        time: when, in seconds since 1970.
    """

    messages: tuple[Message, ...] | None
    document: bool
    before: MemoryState
    time: float


@dataclass(frozen=True)
class Forgotten:
    """What :meth:`Session.forget` did.

    Attributes:
        turns: how many turns were removed from the memory; 0 if it was changed without their text.
        exact: whether the memory is as if they had never been written.
    """

    turns: int
    exact: bool


@dataclass(frozen=True)
class Finished:
    """A complete turn, not yet part of its session.

    Attributes:
        state: the memory after it.
        visible: what is visible after it.
        read: the text that the next turn may continue from.
        log: the turns that a retriever may bring back from now on.
        report: what it did.
        kept: the turn with its text, for a session that keeps it; ``None`` if nothing was written.
    """

    state: MemoryState
    visible: list[Message]
    read: ReadText | None
    log: list[Exchange]
    report: TurnReport
    kept: KeptTurn | None = None


@dataclass(frozen=True)
class Snapshot:
    """A session as a turn found it."""

    state: MemoryState
    visible: tuple[Message, ...]
    log: tuple[Exchange, ...]
    kept: tuple[KeptTurn, ...] = ()
