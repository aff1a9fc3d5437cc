"""``/v1/chat/completions``: OpenAI's chat, with a memory."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from deltamem.chat import Message
from deltamem.serve.bridge import encoded, unless_disconnected
from deltamem.serve.generating import Choice, Generations
from deltamem.serve.prompts import Prompts, new_messages
from deltamem.serve.routes.common import CallerOf, EventStream, ServerOf, SessionHeader, memory_options
from deltamem.serve.sampling import Chosen
from deltamem.serve.schema import ChatRequest

router = APIRouter(prefix="/v1", tags=["openai"])


@router.post("/chat/completions", summary="Answer messages, reading and writing a memory")
async def chat_completions(
    body: ChatRequest, request: Request, server: ServerOf, caller: CallerOf, session: SessionHeader = None
) -> Response:
    """Answers messages.

    With a session (``X-Memory-Session`` or ``memory.session``) the answer is read from its memory as the turn
    began. What is new (the messages since the last assistant message, and the answer) is then written and
    committed, and only after that is the answer complete: a stream's last chunk and ``[DONE]`` mean that it is
    kept. Older messages that do not fit the model's positions are left out; the memory has them. Without a session
    the model answers as its bare backbone.
    """
    options = memory_options(body, session)
    messages = [message.plain() for message in body.messages]
    shorten = options.session is not None
    ids, dropped = await encoded(lambda: server.prompts.chat(messages, shorten=shorten), _texts(messages))
    samplings = [body.sampling(server.settings.max_tokens, body.alternatives, i) for i in range(body.n)]
    async with AsyncExitStack() as stack:
        generations = await Generations.open(stack, server, caller, request, options, [ids], samplings)
        held = stack.pop_all()
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": server.settings.model_name}

    async def finish() -> dict[str, Any]:
        return {**await _write(generations, messages), "dropped_messages": dropped}

    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(_chunks(generations, finish, head, usage=usage, logprobs=bool(body.logprobs)), held)

    async def answer() -> dict[str, Any]:
        async for _ in generations.pieces():
            pass
        memory = await finish()
        choices = [_choice(i, c, server.prompts, bool(body.logprobs)) for i, c in enumerate(generations.choices)]
        return {**head, "object": "chat.completion", "choices": choices, "usage": generations.usage, "memory": memory}

    async with held:
        return JSONResponse(await unless_disconnected(request, answer()))


async def _write(generations: Generations, messages: list[dict[str, str]]) -> dict[str, Any]:
    turn = generations.turn
    answer: Message = {"role": "assistant", "content": generations.choices[0].text.strip()}
    added = [*new_messages(messages), answer]
    written = await encoded(lambda: turn.server.prompts.written(added, turn.options.roles), _texts(added))
    return await turn.write(written, "turn", added)


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    return (text for message in messages for text in message.values())


async def _chunks(
    generations: Generations, finish: Callable[[], Any], head: dict[str, Any], *, usage: bool, logprobs: bool
) -> AsyncIterator[dict[str, Any]]:
    head = {**head, "object": "chat.completion.chunk"}
    if usage:
        head["usage"] = None
    prompts = generations.turn.server.prompts

    def chunk(index: int, delta: dict[str, Any], reason: str | None, chosen: Chosen | None = None) -> dict[str, Any]:
        shown = {"content": [_logprob(prompts, chosen)]} if logprobs and chosen else None
        return {**head, "choices": [{"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}]}

    for index in range(len(generations.choices)):
        yield chunk(index, {"role": "assistant", "content": ""}, None)
    async for index, text, chosen in generations.pieces():
        if text or logprobs:
            yield chunk(index, {"content": text}, None, chosen)
    memory = await finish()
    for index, choice in enumerate(generations.choices):
        yield {**chunk(index, {}, choice.reason), "memory": memory}
    if usage:
        yield {**head, "choices": [], "usage": generations.usage}


def _choice(index: int, choice: Choice, prompts: Prompts, logprobs: bool) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": choice.text, "refusal": None},
        "logprobs": {"content": [_logprob(prompts, c) for c in choice.chosen], "refusal": None} if logprobs else None,
        "finish_reason": choice.reason,
    }


def _logprob(prompts: Prompts, chosen: Chosen) -> dict[str, Any]:
    def shown(token: int, logprob: float | None) -> dict[str, Any]:
        text = prompts.piece(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    top = [shown(*alternative) for alternative in chosen.alternatives]
    return {**shown(chosen.token, chosen.logprob), "top_logprobs": top}
