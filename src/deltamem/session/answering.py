"""Generating an answer: whole, piece by piece, or stopped half-way."""

import asyncio
import threading
from collections.abc import AsyncIterable, Callable, Generator, Iterator
from concurrent.futures import wait
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, TextIteratorStreamer

from deltamem.attach.cache import PAST
from deltamem.session.turns import Draft

_POLL_SECONDS = 0.1
_Result = TypeVar("_Result")


class AbandonedError(Exception):
    """A turn was stopped before it was complete."""


class Stop(StoppingCriteria):
    """Ends a turn that nobody waits for any more."""

    requested = False

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Asked by ``generate`` after every token: ``[B]`` bool, the rows that end here."""
        return torch.full((input_ids.shape[0],), self.requested, dtype=torch.bool, device=input_ids.device)

    def check(self) -> None:
        """Raises an :class:`AbandonedError` if the stop was requested."""
        if self.requested:
            raise AbandonedError


def generate(model: PreTrainedModel, draft: Draft, stop: Stop, **more: Any) -> Tensor:
    """The prompt and what the model says to it, ``[1, T]``.

    Raises:
        AbandonedError: the stop was requested meanwhile.
    """
    options = draft.options | more
    options["stopping_criteria"] = [*options.get("stopping_criteria", ()), stop]
    with torch.no_grad():
        sequence: Tensor = model.generate(  # type: ignore[operator]
            draft.prompt, attention_mask=torch.ones_like(draft.prompt), **{PAST: draft.cache}, **options
        )
    stop.check()
    return sequence


def stream(model: PreTrainedModel, tokenizer: Any, draft: Draft, stop: Stop) -> Generator[str | Tensor, None, None]:
    """The pieces of what the model says, then what :func:`generate` gives. Closing it stops the generation."""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    results: list[Tensor] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(generate(model, draft, stop, streamer=streamer))
        except BaseException as error:
            failures.append(error)
            streamer.end()

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    complete = False
    try:
        yield from (piece for piece in streamer if piece)
        complete = True
    finally:
        stop.requested |= not complete
        worker.join()
    if failures:
        raise failures[0]
    yield results[0]


async def in_thread(stop: Stop, work: Callable[[], _Result]) -> _Result:
    """Runs ``work`` in a thread. When cancelled it requests the stop and waits until the thread has let go."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.requested = True
        while not running.done():
            with suppress(asyncio.CancelledError):  # cancelled again: there is still a thread to wait for
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen, so that asyncio does not report it as lost
        raise


def from_loop(pieces: AsyncIterable[str], loop: asyncio.AbstractEventLoop, stop: Stop) -> Iterator[str]:
    """The pieces of an asynchronous iterator, for a thread beside the event loop it belongs to.

    Raises:
        AbandonedError: the stop was requested while a piece was awaited.
    """
    iterator = aiter(pieces)

    async def following() -> str | None:
        return await anext(iterator, None)

    while True:
        coming = asyncio.run_coroutine_threadsafe(following(), loop)
        while not wait([coming], _POLL_SECONDS).done:
            if stop.requested:
                coming.cancel()
                raise AbandonedError
        piece = coming.result()
        if piece is None:
            return
        yield piece
