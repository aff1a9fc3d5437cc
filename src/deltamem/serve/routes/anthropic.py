"""``/v1/messages``: Anthropic's dialect of chat, with a memory."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from deltamem.serve.anthropic import Blocks, CountTokensRequest, MessagesRequest
from deltamem.serve.bridge import encoded
from deltamem.serve.errors import ApiError
from deltamem.serve.generations import Generations
from deltamem.serve.routes.answering import Started, answered
from deltamem.serve.routes.chat import Conversation, in_prompt, texts_of
from deltamem.serve.routes.common import WHOLE_OR_STREAMED, AskerOf, ServerOf, SessionHeader, as_chat, memory_options
from deltamem.serve.tools import CallReader

router = APIRouter(prefix="/v1", tags=["anthropic"])


class TokenCount(BaseModel):
    """How many tokens a prompt has."""

    input_tokens: int


@router.post(
    "/messages",
    summary="Answer messages in Anthropic's dialect, reading and writing a memory",
    responses=WHOLE_OR_STREAMED,
)
async def messages(
    body: MessagesRequest, request: Request, server: ServerOf, caller: AskerOf, session: SessionHeader = None
) -> Response:
    """Answers as chat does, with blocks of text and of calls, and the same memory."""
    chat = as_chat(body.chat)
    conversation = await Conversation.of(chat, request, server, caller, memory_options(chat, session))
    blocks = Blocks(CallReader(server.prompts.syntax) if chat.shown_tools else None)
    head: dict[str, Any] = {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": server.settings.model_name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }

    async def whole(generations: Generations) -> dict[str, Any]:
        await blocks.read(generations.pieces())
        memory = await conversation.finish(generations)
        ended = {"stop_reason": _reason(generations, blocks), "usage": _usage(generations)}
        return {**head, **ended, "content": blocks.parts, "memory": memory}

    async def events(started: Started) -> AsyncIterator[dict[str, Any]]:
        generations = await started
        yield {"type": "message_start", "message": {**head, "usage": _usage(generations)}}
        async for event in blocks.events(generations.pieces()):
            yield event
        memory = await conversation.finish(generations)
        delta = {"stop_reason": _reason(generations, blocks), "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": _usage(generations), "memory": memory}
        yield {"type": "message_stop"}

    def failed(error: ApiError) -> dict[str, Any]:
        return error.body(request.scope["path"])

    return await answered(request, conversation.opening, whole, events if body.stream else None, failed)


@router.post("/messages/count_tokens", summary="How many tokens messages have in Anthropic's dialect")
async def count_tokens(body: CountTokensRequest, server: ServerOf, caller: AskerOf) -> TokenCount:
    """Counts the prompt's tokens, tools included; however many there are, nothing is answered or written."""
    chat = as_chat(body.chat)
    messages, shown, tools = in_prompt(chat, server.prompts)
    counted = await encoded(lambda: server.prompts.count(shown, tools), texts_of(messages))
    return TokenCount(input_tokens=counted)


def _reason(generations: Generations, blocks: Blocks) -> str:
    if generations.choices[0].reason == "length":
        return "max_tokens"
    return "tool_use" if blocks.called else "end_turn"


def _usage(generations: Generations) -> dict[str, int]:
    used = generations.usage
    return {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
