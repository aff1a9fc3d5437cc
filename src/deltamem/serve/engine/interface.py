"""What the server asks of an engine; it has two: its own, and vLLM (:mod:`deltamem.vllm.engine`)."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from deltamem.serve.engine.constraint import Constraint
from deltamem.serve.engine.jobs import Deliver, Load, Ticket, results
from deltamem.serve.engine.sampling import Sampling
from deltamem.serve.settings import EngineLimits
from deltamem.state import MemoryState


class PromptError(ValueError):
    """A prompt is empty or leaves no position for an answer."""


class AnyEngine(Protocol):
    """Generates from many memories at once, and writes to them.

    Its methods may be called from any thread, and events are delivered on its own.

    Attributes:
        model: the model with its adapter, or its shape alone: see ``computes``.
        computes: whether ``model`` can be called, beside the engine.
        tokenizer: its tokenizer.
        context: how many positions a prompt and its answer have.
    """

    model: Any
    computes: bool
    tokenizer: Any
    context: int

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""

    def new_state(self) -> MemoryState:
        """An empty memory of one row."""

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

    def stop(self) -> None:
        """Takes no more jobs, and fails those that it has at their next token."""

    def close(self, timeout: float | None = None) -> None:
        """Finishes what was taken in and stops; what is unfinished after ``timeout`` seconds fails."""


class MakeEngine(Protocol):
    """Makes an engine for a server: a class of an engine, or one with its further arguments bound."""

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        limits: EngineLimits | None,
        *,
        watch: Callable[[int, float], None],
        delivered: Callable[[], None],
    ) -> AnyEngine:
        """Makes it, and starts its thread.

        Args:
            model: what the engine calls, or takes the shape of.
            tokenizer: its tokenizer.
            limits: how much it takes on.
            watch: called after every step with the tokens that it made and its seconds, for metrics.
            delivered: called when events were delivered and the next ones take another pass of the model.
        """


def warm_up(engine: AnyEngine) -> None:
    """Runs a few tokens through everything, so that the first request does not wait for kernels to compile."""
    ids = torch.ones(1, 2, dtype=torch.int64)
    for _ in results(lambda d: engine.write(ids, torch.zeros_like(ids), ids.bool(), d)):
        pass
    for _ in results(lambda d: engine.generate([1, 1], Sampling(max_tokens=2, ignore_end=True), d)):
        pass


def check_prompt(prompt: list[int], context: int) -> None:
    """Refuses a prompt that an engine cannot continue.

    Raises:
        PromptError: it is empty or leaves no position for an answer.
    """
    if not prompt:
        raise PromptError("The prompt has no tokens.")
    if len(prompt) >= context:
        raise PromptError(
            f"The prompt has {len(prompt)} tokens, and the model has {context} positions for prompt and answer "
            "together."
        )


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, by the model's ``generation_config`` and its tokenizer."""
    ends: set[int] = set()
    for found in (getattr(model.generation_config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        if found is not None:
            ends.update(torch.as_tensor(found).flatten().tolist())
    return frozenset(ends)
