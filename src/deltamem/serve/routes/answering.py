"""What both kinds of completion answer with: one body, or a stream that ends once the turn is kept."""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from deltamem.serve.bridge import unless_disconnected
from deltamem.serve.engine.text import piece
from deltamem.serve.errors import ApiError
from deltamem.serve.generations import Choice, Generations, Token
from deltamem.serve.routes.common import SILENCE, EventStream, server_of
from deltamem.serve.schema.completions import Generation

# A token's text, its bytes, and its log-probability.
Probed = tuple[str, bytes, float | None]
Started = asyncio.Task[Generations]
Finish = Callable[[Generations], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Shape(ABC):
    """How one kind of completion shows its choices.

    Attributes:
        prefix: what an answer's id begins with.
        whole: what a whole answer is called in ``object``, as ``chunk`` is what a part of a stream is.
        opening: the fields of a choice in a stream's first chunk, if it has one of its own.
        tokenizer: shows tokens as text.
        logprobs: whether log-probabilities are shown.
    """

    prefix: ClassVar[str]
    whole: ClassVar[str]
    chunk: ClassVar[str]
    opening: ClassVar[dict[str, Any] | None] = None

    tokenizer: Any
    logprobs: bool

    @abstractmethod
    def choice(self, choice: Choice) -> dict[str, Any]:
        """The fields of a whole choice."""

    @abstractmethod
    def part(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        """The fields of a choice in a chunk, which is the last one if it brings nothing."""

    def parts(self, index: int, text: str, tokens: Sequence[Token]) -> Iterator[dict[str, Any]]:
        """The fields of a choice in the chunks that a piece of it makes."""
        if text or (tokens and self.logprobs):
            yield self.part(text, tokens)

    def rest(self, index: int) -> Iterator[dict[str, Any]]:
        """The same for what was held back, once the choice has ended."""
        yield from ()

    def reason(self, index: int, choice: Choice) -> str | None:
        """Why a choice ended."""
        return choice.reason


def probed(tokenizer: Any, token: Token) -> Iterator[Probed]:
    """A token, and then its alternatives, as they stand in the text."""
    for one, logprob in ((token.chosen.token, token.chosen.logprob), *token.chosen.alternatives):
        yield *piece(tokenizer, one, token.after), logprob


async def respond(
    request: Request, body: Generation, opening: Coroutine[Any, Any, Generations], shape: Shape, finish: Finish
) -> Response:
    """The answer to a completion.

    Args:
        request: who waits for it.
        body: whether it is a stream, and with what.
        opening: starts the generations; they are let go when the answer is over.
        shape: how choices are shown.
        finish: writes the turn, and gives what the answer says of the memory.
    """
    head = {
        "id": f"{shape.prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": server_of(request).settings.model_name,
    }
    usage = bool(body.stream_options and body.stream_options.include_usage)

    async def whole(generations: Generations) -> dict[str, Any]:
        async for _ in generations.pieces():
            pass
        memory = await finish(generations)
        choices = [
            {"index": index, **shape.choice(choice), "finish_reason": shape.reason(index, choice)}
            for index, choice in enumerate(generations.choices)
        ]
        return {**head, "object": shape.whole, "choices": choices, "usage": generations.usage, "memory": memory}

    def chunk(index: int, fields: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choices = [{"index": index, **fields, "finish_reason": reason}]
        return {**head, "object": shape.chunk, "choices": choices} | ({"usage": None} if usage else {})

    async def chunks(started: Started) -> AsyncIterator[dict[str, Any]]:
        generations = await started
        if shape.opening is not None:
            for index in range(len(generations.choices)):
                yield chunk(index, shape.opening)
        async for index, text, tokens in generations.pieces():
            for fields in shape.parts(index, text, tokens):
                yield chunk(index, fields)
        for index in range(len(generations.choices)):
            for fields in shape.rest(index):
                yield chunk(index, fields)
        memory = await finish(generations)
        for index, choice in enumerate(generations.choices):
            yield {**chunk(index, shape.part("", []), shape.reason(index, choice)), "memory": memory}
        if usage:
            yield {**head, "object": shape.chunk, "choices": [], "usage": generations.usage}

    return await answered(request, opening, whole, chunks if body.stream else None)


async def answered(
    request: Request,
    opening: Coroutine[Any, Any, Generations],
    whole: Callable[[Generations], Coroutine[Any, Any, dict[str, Any]]],
    events: Callable[[Started], AsyncIterator[dict[str, Any]]] | None,
    failed: Callable[[ApiError], dict[str, Any]] | None = None,
) -> Response:
    """An answer as one body, or as a stream.

    What refuses a request does so before anything is sent. One that waits for others begins its stream meanwhile.

    Args:
        request: who waits for it.
        opening: starts the generations; they are let go when the answer is over.
        whole: makes the body.
        events: what a stream tells, where it is to be one.
        failed: as :class:`EventStream` takes it.
    """
    if events is None:
        generations = await opening
        async with generations.held:
            return JSONResponse(await unless_disconnected(request, whole(generations)))
    started = asyncio.create_task(opening)
    if (await asyncio.wait((started,), timeout=SILENCE))[0]:
        started.result()
    held = AsyncExitStack()
    held.push_async_callback(_let_go, started)
    return EventStream(request, events(started), held, failed=failed)


async def _let_go(started: Started) -> None:
    """Ends generations, whether they have begun or not."""
    started.cancel()
    try:
        generations = await started
    except (asyncio.CancelledError, Exception):  # whoever waited for them was told
        return
    await generations.held.aclose()
