"""``/v1/messages``: Anthropic's dialect of chat, with a memory."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from deltamem.serve.anthropic import Blocks, MessagesRequest
from deltamem.serve.bridge import unless_disconnected
from deltamem.serve.errors import ApiError
from deltamem.serve.generations import Generations
from deltamem.serve.routes.answering import Finish
from deltamem.serve.routes.chat import Conversation
from deltamem.serve.routes.common import AskerOf, EventStream, ServerOf, SessionHeader, memory_options
from deltamem.serve.tools import CallReader

router = APIRouter(prefix="/v1", tags=["anthropic"])


@router.post(
    "/messages",
    summary="Answer messages in Anthropic's dialect, reading and writing a memory",
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}},
)
async def messages(
    body: MessagesRequest, request: Request, server: ServerOf, caller: AskerOf, session: SessionHeader = None
) -> Response:
    """Answers as chat does, with blocks of text and of calls, and the same memory."""
    try:
        chat = body.chat()
    except ValidationError as error:
        raise ApiError(400, error.errors()[0]["msg"], "invalid_value") from None
    conversation = await Conversation.of(chat, request, server, caller, memory_options(chat, session))
    generations = await conversation.opening
    blocks = Blocks(CallReader(server.prompts.syntax) if chat.shown_tools else None)
    head: dict[str, Any] = {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": server.settings.model_name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(generations),
    }
    if body.stream:
        held = AsyncExitStack()
        held.push_async_callback(generations.held.aclose)
        events = _events(generations, blocks, head, conversation.finish)
        return EventStream(request, events, held, named=True)

    async def answer() -> dict[str, Any]:
        async for _, text, _ in generations.pieces():
            for _ in blocks.push(text):
                pass
        for _ in blocks.finish():
            pass
        memory = await conversation.finish(generations)
        ended = {"stop_reason": _reason(generations, blocks), "usage": _usage(generations)}
        return {**head, **ended, "content": blocks.blocks, "memory": memory}

    async with generations.held:
        return JSONResponse(await unless_disconnected(request, answer()))


async def _events(
    generations: Generations, blocks: Blocks, head: dict[str, Any], finish: Finish
) -> AsyncIterator[dict[str, Any]]:
    yield {"type": "message_start", "message": head}
    async for _, text, _ in generations.pieces():
        for event in blocks.push(text):
            yield event
    for event in blocks.finish():
        yield event
    memory = await finish(generations)
    delta = {"stop_reason": _reason(generations, blocks), "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": _usage(generations), "memory": memory}
    yield {"type": "message_stop"}


def _reason(generations: Generations, blocks: Blocks) -> str:
    if generations.choices[0].reason == "length":
        return "max_tokens"
    return "tool_use" if blocks.called else "end_turn"


def _usage(generations: Generations) -> dict[str, int]:
    used = generations.usage
    return {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
