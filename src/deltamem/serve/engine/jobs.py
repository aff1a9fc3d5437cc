"""What the engine is asked to do, and what it answers."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from deltamem.serve.engine.constraint import Constraint
from deltamem.serve.engine.sampling import Chosen, Sampling
from deltamem.serve.engine.text import TextStream
from deltamem.state import MemoryState


class EngineError(RuntimeError):
    """The engine could not finish a job."""


class QueueFullError(EngineError):
    """Too many jobs wait already.

    Attributes:
        retry_after: seconds after which there should be room.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are waiting. Try again in {retry_after} s.")
        self.retry_after = retry_after


class ClosedError(EngineError):
    """The engine is shutting down and takes no more work, or ends what it has."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class CancelledJobError(EngineError):
    """Nobody wants the result any more."""


class DeadlineError(EngineError):
    """The job did not finish in time."""


@dataclass(frozen=True)
class Piece:
    """A token was generated.

    Attributes:
        text: what became certain with it, perhaps nothing.
        chosen: the token.
        length: characters that the tokens have come to with it, whether certain or not.
    """

    text: str
    chosen: Chosen
    length: int


@dataclass(frozen=True)
class Done:
    """A generation ended.

    Attributes:
        text: what was still held back.
        reason: ``stop`` at an end token or a stop string, ``length`` at the most tokens or positions.
        prompt_tokens: tokens read.
        completion_tokens: tokens generated, the end token included.
    """

    text: str
    reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Written:
    """Tokens were written; ``state`` is the new memory."""

    state: MemoryState


@dataclass(frozen=True)
class Failed:
    """The job failed."""

    error: Exception


Event = Piece | Done | Written | Failed
Deliver = Callable[[Event], None]


class Ticket:
    """A job in the engine; its events are delivered on the engine's thread, the last one exactly once.

    Args:
        deliver: called with every event; must not block.
        deadline: when ``time.monotonic()`` passes it the job fails.
    """

    def __init__(self, deliver: Deliver, deadline: float | None) -> None:
        self.deliver = deliver
        self.deadline = deadline
        self.submitted = time.monotonic()
        self._over: EngineError | None = None

    def cancel(self, reason: EngineError | None = None) -> None:
        """Ends the job at the next token, as one that nobody wants or for a reason; harmless when it is over."""
        self._over = self._over or reason or CancelledJobError("The request was cancelled.")

    def problem(self) -> EngineError | None:
        """Why the job must not go on, if so."""
        if self._over is not None:
            return self._over
        if self.deadline is not None and time.monotonic() > self.deadline:
            return DeadlineError("The request did not finish before its deadline.")
        return None


@dataclass(eq=False)
class Row:
    """A generation under way.

    Attributes:
        ticket: whose it is.
        state: the memory it reads, one row.
        tokens: prompt and answer so far.
        prompt: how many of them are the prompt.
        sampling: how it samples.
        draws: its random numbers.
        text: its text so far.
        fed: how many the server's own engine has fed to the model.
        constraint: what it may say; anything if ``None``.
    """

    ticket: Ticket
    state: MemoryState
    tokens: list[int]
    prompt: int
    sampling: Sampling
    draws: random.Random
    text: TextStream
    fed: int = 0
    constraint: Constraint | None = None

    @property
    def made(self) -> int:
        """How many tokens the answer has."""
        return len(self.tokens) - self.prompt


@dataclass(eq=False)
class Writing:
    """Tokens being written to one row's memory.

    Attributes:
        ticket: whose they are.
        state: the memory so far, one row.
        ids: ``[1, T]`` tokens.
        segments: ``[1, T]`` segment ids, which matter to adapters that write segments.
        write: ``[1, T]`` bool, the tokens that write.
        done: how many were written.
    """

    ticket: Ticket
    state: MemoryState
    ids: Tensor = field(repr=False)
    segments: Tensor = field(repr=False)
    write: Tensor = field(repr=False)
    done: int = 0


Job = Row | Writing


@dataclass(frozen=True)
class Load:
    """What the engine is doing right now.

    Attributes:
        waiting: jobs that have not begun.
        prefilling: rows whose prompt is being read.
        decoding: rows that generate.
        writing: jobs that write to memory.
    """

    waiting: int
    prefilling: int
    decoding: int
    writing: int


def results(start: Callable[[Deliver], Ticket]) -> list[Event]:
    """All events of a job once it is over, for callers that may block; they wake once and not at every token.

    Args:
        start: submits the job with the given ``deliver``, as in ``results(lambda d: engine.generate(ids, how, d))``.

    Raises:
        EngineError: the job failed.
    """
    events: list[Event] = []
    over = threading.Event()

    def deliver(event: Event) -> None:
        events.append(event)
        if isinstance(event, (Done, Written, Failed)):
            over.set()

    ticket = start(deliver)
    try:
        over.wait()
    finally:
        ticket.cancel()
    last = events[-1]
    if isinstance(last, Failed):
        raise last.error
    return events
