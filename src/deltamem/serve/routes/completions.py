"""``/v1/completions``: OpenAI's bare continuation of a text, with a memory."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from deltamem.serve.bridge import unless_disconnected
from deltamem.serve.errors import ApiError
from deltamem.serve.generating import Choice, Generations
from deltamem.serve.prompts import Prompts
from deltamem.serve.routes.common import CallerOf, EventStream, ServerOf, SessionHeader, memory_options
from deltamem.serve.sampling import Chosen
from deltamem.serve.schema import CompletionRequest

router = APIRouter(prefix="/v1", tags=["openai"])
_MOST_CHOICES = 64


@router.post("/completions", summary="Continue a text, reading and writing a memory")
async def completions(
    body: CompletionRequest, request: Request, server: ServerOf, caller: CallerOf, session: SessionHeader = None
) -> Response:
    """Continues texts. The memory is used as in chat; a turn is the prompt and its continuation, as bare text."""
    options = memory_options(body, session)
    prompts = await asyncio.to_thread(_prompts, body.prompt, server.prompts)
    if len(prompts) * body.n > _MOST_CHOICES:
        raise ApiError(400, f"At most {_MOST_CHOICES} choices come of one request.", "invalid_value", "prompt")
    if options.writes and len(prompts) > 1:
        raise ApiError(400, "One prompt at a time is written to memory.", "invalid_value", "prompt")
    samplings = [body.sampling(server.settings.max_tokens, body.logprobs, i) for i in range(body.n)]
    async with AsyncExitStack() as stack:
        generations = await Generations.open(stack, server, caller, request, options, prompts, samplings)
        held = stack.pop_all()
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": server.settings.model_name,
    }
    logprobs = body.logprobs is not None
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(_chunks(generations, prompts[0], head, usage=usage, logprobs=logprobs), held)

    async def answer() -> dict[str, Any]:
        async for _ in generations.pieces():
            pass
        memory = await _write(generations, prompts[0])
        choices = [_choice(i, c, server.prompts, logprobs) for i, c in enumerate(generations.choices)]
        return {**head, "choices": choices, "usage": generations.usage, "memory": memory}

    async with held:
        return JSONResponse(await unless_disconnected(request, answer()))


def _prompts(given: str | list[Any], prompts: Prompts) -> list[list[int]]:
    several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    encoded = [prompts.text(one) if isinstance(one, str) else list(one) for one in several]
    if not all(encoded):
        raise ApiError(400, "A prompt has no tokens.", "invalid_value", "prompt")
    if any(token >= prompts.vocabulary for ids in encoded for token in ids):
        raise ApiError(400, f"Token ids go from 0 to {prompts.vocabulary - 1}.", "invalid_value", "prompt")
    return encoded


async def _write(generations: Generations, prompt: list[int]) -> dict[str, Any]:
    turn, choice = generations.turn, generations.choices[0]
    ids = [*prompt, *(chosen.token for chosen in choice.chosen)]
    return await turn.write(turn.server.prompts.written_text(ids), "turn")


async def _chunks(
    generations: Generations, prompt: list[int], head: dict[str, Any], *, usage: bool, logprobs: bool
) -> AsyncIterator[dict[str, Any]]:
    if usage:
        head = {**head, "usage": None}
    prompts = generations.turn.server.prompts
    offsets = [0] * len(generations.choices)

    def chunk(index: int, text: str, reason: str | None, shown: dict[str, Any] | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "text": text, "logprobs": shown, "finish_reason": reason}]}

    async for index, text, chosen in generations.pieces():
        if logprobs and chosen:
            yield chunk(index, text, None, _logprobs([chosen], prompts, offsets[index]))
            offsets[index] += len(prompts.piece(chosen.token))
        elif text:
            yield chunk(index, text, None)
    memory = await _write(generations, prompt)
    for index, choice in enumerate(generations.choices):
        yield {**chunk(index, "", choice.reason), "memory": memory}
    if usage:
        yield {**head, "choices": [], "usage": generations.usage}


def _choice(index: int, choice: Choice, prompts: Prompts, logprobs: bool) -> dict[str, Any]:
    shown = _logprobs(choice.chosen, prompts, 0) if logprobs else None
    return {"index": index, "text": choice.text, "logprobs": shown, "finish_reason": choice.reason}


def _logprobs(chosen: list[Chosen], prompts: Prompts, offset: int) -> dict[str, Any]:
    tokens = [prompts.piece(one.token) for one in chosen]
    offsets = [offset + sum(map(len, tokens[:i])) for i in range(len(tokens))]
    return {
        "tokens": tokens,
        "token_logprobs": [one.logprob for one in chosen],
        "top_logprobs": [{prompts.piece(token): value for token, value in one.alternatives} for one in chosen],
        "text_offset": offsets,
    }
