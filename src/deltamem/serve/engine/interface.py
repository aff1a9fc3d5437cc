"""What an engine is: jobs wait in its queue, and its thread takes them further, step by step.

The server has two: its own (:mod:`deltamem.serve.engine.engine`), and vLLM (:mod:`deltamem.vllm.engine`).
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltamem.attach import attached
from deltamem.observe import positions
from deltamem.serve.engine.constraint import Constraint
from deltamem.serve.engine.jobs import (
    ClosedError,
    Deliver,
    Done,
    Event,
    Job,
    Load,
    QueueFullError,
    Row,
    Ticket,
    Writing,
    results,
)
from deltamem.serve.engine.sampling import Sampling
from deltamem.serve.engine.text import TextStream
from deltamem.serve.settings import EngineLimits
from deltamem.state import MemoryState


class PromptError(ValueError):
    """A prompt is empty or leaves no position for an answer."""


class AnyEngine(ABC):
    """Generates from many memories at once, and writes to them, in a thread of its own.

    Its methods may be called from any thread, and events are delivered on its own.

    Args:
        model: what the engine calls, or takes the shape of.
        tokenizer: its tokenizer.
        limits: how much it takes on.
        watch: called after every step with the tokens that it made and its seconds, for metrics.
        delivered: called when events were delivered and the next ones take another pass of the model.

    Attributes:
        model: the model with its adapter, or its shape alone: see ``computes``.
        computes: whether ``model`` can be called, beside the engine.
        tokenizer: its tokenizer.
        context: how many positions a prompt and its answer have.
    """

    computes: ClassVar[bool]

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        limits: EngineLimits | None = None,
        *,
        watch: Callable[[int, float], None] | None = None,
        delivered: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.limits = limits or EngineLimits()
        most = positions(model) or 2**31
        self.context = min(self.limits.context or most, most)
        self._attachment = attached(model)
        self._empty = self.new_state()
        self._ends = end_tokens(model, tokenizer)
        self._watch = watch
        self._delivered = delivered or (lambda: None)
        self._waiting: deque[Job] = deque()
        self._seconds_per_job = 0.5
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="deltamem-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it takes jobs: not once it closes, or if its thread died of something that no job caused."""
        return self._thread.is_alive() and not self._closing

    def new_state(self) -> MemoryState:
        """An empty memory of one row, where the adapter computes and in its precision."""
        return self._attachment.new_state(1)

    @abstractmethod
    def load(self) -> Load:
        """What it is doing right now."""

    def generate(
        self,
        prompt: list[int],
        sampling: Sampling,
        deliver: Deliver,
        *,
        state: MemoryState | None = None,
        deadline: float | None = None,
        continues: bool = False,
        constraint: Constraint | None = None,
    ) -> Ticket:
        """Continues a prompt, reading a memory and not writing it: delivers pieces, then ``Done`` or ``Failed``.

        Args:
            prompt: token ids.
            sampling: how to choose tokens.
            deliver: takes the events.
            state: the memory, one row; empty by default, which is the bare backbone.
            deadline: in the terms of ``time.monotonic()``.
            continues: the text continues from the prompt's, instead of beginning anew.
            constraint: what it may say, of this generation alone; anything by default.

        Raises:
            PromptError: the prompt is empty or leaves no position for an answer.
            ValueError: something else is asked for that this engine does not do.
            QueueFullError: too much is waiting.
            ClosedError: the engine is shutting down.
        """
        if not prompt:
            raise PromptError("The prompt has no tokens.")
        if len(prompt) >= self.context:
            raise PromptError(
                f"The prompt has {len(prompt)} tokens, and the model has {self.context} positions for prompt and "
                "answer together."
            )
        ticket = Ticket(deliver, deadline)
        text = TextStream(self.tokenizer, sampling.stop, prompt if continues else ())
        state = state if state is not None else self._empty
        row = Row(ticket, state, list(prompt), len(prompt), sampling, sampling.draws(), text, constraint=constraint)
        self._submit(row)
        return ticket

    def write(
        self,
        ids: Tensor,
        segments: Tensor,
        write: Tensor,
        deliver: Deliver,
        *,
        state: MemoryState | None = None,
        deadline: float | None = None,
        admitted: bool = False,
    ) -> Ticket:
        """Writes tokens to a memory: delivers ``Written`` or ``Failed``.

        Args:
            ids: ``[1, T]`` tokens, any number.
            segments: ``[1, T]`` segment ids.
            write: ``[1, T]`` bool, the tokens that write.
            deliver: takes the event.
            state: the memory to continue from, one row; empty by default.
            deadline: in the terms of ``time.monotonic()``.
            admitted: it ends a turn whose generation was let in, and so never finds the queue full or closed.

        Raises:
            QueueFullError: too much is waiting.
            ClosedError: the engine is shutting down.
        """
        ticket = Ticket(deliver, deadline)
        state = state if state is not None else self._empty
        self._submit(Writing(ticket, state, ids, segments, write), admitted=admitted)
        return ticket

    def stop(self) -> None:
        """Takes no more jobs, and fails those that it has at their next token."""
        self._take_no_more()
        for job in self._all_jobs():
            job.ticket.cancel(ClosedError())

    def close(self, timeout: float | None = None) -> None:
        """Finishes what was taken in and stops; what is unfinished after ``timeout`` seconds fails."""
        self._take_no_more()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.stop()
            self._thread.join()

    @abstractmethod
    def _line(self) -> tuple[int, int]:
        """How many jobs wait, and how many of these could begin at once."""

    @abstractmethod
    def _busy(self) -> bool:
        """Whether jobs have begun that are not over."""

    @abstractmethod
    def _all_jobs(self) -> Sequence[Job]:
        """Those that wait, and those that have begun."""

    @abstractmethod
    def _step(self) -> int:
        """Lets jobs in and takes each one further; gives the number of tokens of answers."""

    @abstractmethod
    def _fail(self, error: Exception) -> None:
        """Ends jobs after an error of the model's."""

    def _take_no_more(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _submit(self, job: Job, *, admitted: bool = False) -> None:
        with self._changed:
            if not self._thread.is_alive() or (self._closing and not admitted):
                raise ClosedError
            ahead, room = self._line()
            if admitted:
                self._waiting.appendleft(job)
            elif ahead < self.limits.queue + room:
                self._waiting.append(job)
            else:
                wait = ahead * self._seconds_per_job / self.limits.max_batch
                raise QueueFullError(ahead, max(1, min(60, round(wait))))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._busy()):
                    if self._closing:
                        return
                    self._changed.wait()
            started = time.monotonic()
            try:
                made = self._step()
            except Exception as error:
                self._fail(error)
            else:
                if self._watch is not None:
                    self._watch(made, time.monotonic() - started)
            self._delivered()

    def _deliver_last(self, job: Job, event: Event) -> None:
        if isinstance(event, Done):
            spent = time.monotonic() - job.ticket.submitted
            self._seconds_per_job = 0.9 * self._seconds_per_job + 0.1 * spent
        job.ticket.deliver(event)


MakeEngine = Callable[..., AnyEngine]
"""Makes an engine for a server, of the arguments of :class:`AnyEngine`, and starts its thread."""


def warm_up(engine: AnyEngine) -> None:
    """Runs a few tokens through everything, so that the first request does not wait for kernels to compile."""
    ids = torch.ones(1, 2, dtype=torch.int64)
    results(lambda d: engine.write(ids, torch.zeros_like(ids), ids.bool(), d))
    results(lambda d: engine.generate([1, 1], Sampling(max_tokens=2, ignore_end=True), d))


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, by the model's ``generation_config`` and its tokenizer."""
    ends: set[int] = set()
    for found in (getattr(model.generation_config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        if found is not None:
            ends.update(torch.as_tensor(found).flatten().tolist())
    return frozenset(ends)
