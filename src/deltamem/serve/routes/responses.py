"""``/v1/responses``: OpenAI's Responses, whose conversations are memory sessions."""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deltamem.serve.access import Caller
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.generations import Generations
from deltamem.serve.responses import Output, ResponseRequest, response_id, session_of
from deltamem.serve.routes.answering import Started, answered
from deltamem.serve.routes.chat import Conversation
from deltamem.serve.routes.common import WHOLE_OR_STREAMED, AskerOf, ServerOf, SessionHeader, as_chat, memory_options
from deltamem.serve.schema.completions import MemoryOptions
from deltamem.serve.schema.messages import ChatMessage
from deltamem.serve.server import Server
from deltamem.serve.tools import CallReader

router = APIRouter(prefix="/v1", tags=["openai"])
_KEPT = timedelta(days=30)


@router.post(
    "/responses",
    summary="Answer, continuing an earlier response or a conversation",
    responses=WHOLE_OR_STREAMED,
)
async def responses(
    body: ResponseRequest, request: Request, server: ServerOf, caller: AskerOf, session: SessionHeader = None
) -> Response:
    """Answers as chat does.

    A ``conversation`` is the memory session of that name. ``previous_response_id`` continues from the memory that the
    response left, and shows the messages before it if the server keeps them; if its session has moved on since, in a
    fork. Without either, a session of its own is made for a response that is stored, and kept for thirty days.
    ``store: false`` writes nothing, whatever memory it reads.
    """
    options, before, made = await _memory(body, session, server, caller)
    chat = as_chat(lambda: body.chat(before))
    conversation = await Conversation.of(chat, request, server, caller, options)
    writes = options.writes and options.session is not None

    def head_of(generations: Generations) -> dict[str, Any]:
        turn = generations.turn
        number = turn.version + 1 + (turn.version == 0 or turn.fresh)
        name = response_id(str(options.session), number) if writes else f"resp_{uuid.uuid4().hex}"
        return _head(body, server, name)

    async def finish(generations: Generations, head: dict[str, Any], output: Output) -> dict[str, Any]:
        memory = await conversation.finish(generations)
        if made and writes:
            expires = datetime.now(UTC) + _KEPT
            await asyncio.to_thread(server.store.change, caller.tenant, str(options.session), expires=expires)
        return _whole(head, generations, output, memory)

    reader = CallReader(server.prompts.syntax) if chat.shown_tools else None
    count = itertools.count()

    def numbered(event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "sequence_number": next(count)}

    async def whole(generations: Generations) -> dict[str, Any]:
        head, output = head_of(generations), Output(reader)
        await output.read(generations.pieces())
        return await finish(generations, head, output)

    async def events(started: Started) -> AsyncIterator[dict[str, Any]]:
        generations = await started
        head, output = head_of(generations), Output(reader)
        for kind in ("response.created", "response.in_progress"):
            yield numbered({"type": kind, "response": head})
        async for event in output.events(generations.pieces()):
            yield numbered(event)
        done = await finish(generations, head, output)
        yield numbered({"type": f"response.{done['status']}", "response": done})

    def failed(error: ApiError) -> dict[str, Any]:
        return numbered(_failure(error))

    return await answered(request, conversation.opening, whole, events if body.stream else None, failed)


def _failure(error: ApiError) -> dict[str, Any]:
    """The event that tells of an error: its fields as OpenAI describes them, and together, as its clients read them."""
    detail = error.body()["error"]
    return {"type": "error", **{name: detail[name] for name in ("code", "message", "param")}, "error": detail}


async def _memory(
    body: ResponseRequest, header: str | None, server: Server, caller: Caller
) -> tuple[MemoryOptions, list[ChatMessage], bool]:
    """Which memory is used, the messages that are shown of before, and whether the session is made for this."""
    given = as_chat(lambda: body.chat([])) if body.memory is not None else None
    options = memory_options(given, header) if given is not None else MemoryOptions(session=header)
    if not body.store and options.mode == "read_write":
        options = options.model_copy(update={"mode": "read_only"})
    named = body.named_session
    elsewhere = options.session not in (None, named) or options.state is not None
    if elsewhere and (named is not None or body.previous_response_id is not None):
        other = "previous_response_id" if named is None else "conversation"
        raise invalid(f"{other} and memory name different memories: give one of them.", "memory")
    if named is not None:
        return options.model_copy(update={"session": named}), [], False
    if body.previous_response_id is not None:
        session, version = session_of(body.previous_response_id)
        record = await asyncio.to_thread(server.store.get, caller.tenant, session)
        log = await asyncio.to_thread(server.store.messages, caller.tenant, session, version=version, limit=500)
        before = [ChatMessage(role=one.message["role"], content=one.message["content"]) for one in log]
        if record.head != version:
            caller.need("write")
            copy = await asyncio.to_thread(
                server.store.fork, caller.tenant, session, None, version=version, expires=datetime.now(UTC) + _KEPT
            )
            session = copy.session
        return options.model_copy(update={"session": session, "must_exist": True}), before, False
    if options.session is None and options.state is None and options.mode == "read_write":
        return options.model_copy(update={"session": f"resp-{uuid.uuid4().hex}"}), [], True
    return options, [], False


def _head(body: ResponseRequest, server: Server, name: str) -> dict[str, Any]:
    """A response before anything was said."""
    sent = body.model_dump(exclude_none=True, by_alias=True)
    return {
        "id": name,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": server.settings.model_name,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "parallel_tool_calls": bool(body.parallel_tool_calls),
        "previous_response_id": body.previous_response_id,
        "conversation": None if body.named_session is None else {"id": body.named_session},
        "store": body.store,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "text": sent.get("text") or {"format": {"type": "text"}},
        "tool_choice": sent.get("tool_choice", "auto"),
        "tools": sent.get("tools", []),
        "metadata": body.metadata or {},
        "usage": None,
    }


def _whole(head: dict[str, Any], generations: Generations, output: Output, memory: dict[str, Any]) -> dict[str, Any]:
    cut = generations.choices[0].reason == "length"
    usage = generations.usage
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output.parts,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
        "memory": memory,
    }
