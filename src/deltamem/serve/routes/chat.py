"""``/v1/chat/completions``: OpenAI's chat, with a memory."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deltamem.chat import Message
from deltamem.serve.bridge import encoded
from deltamem.serve.generations import Choice, Generations, Token
from deltamem.serve.prompts import answer_message, new_messages
from deltamem.serve.routes.answering import Shape, probed, respond
from deltamem.serve.routes.common import CallerOf, ServerOf, SessionHeader, memory_options
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
    samplings = [body.sampling(server.sampling, body.alternatives, i) for i in range(body.n)]
    opening = Generations.open(server, caller, request, options, [ids], samplings)

    async def finish(generations: Generations) -> dict[str, Any]:
        turn = generations.turn
        added = [*new_messages(messages), answer_message(generations.choices[0].text)]
        written = await encoded(lambda: server.prompts.written(added, turn.options.roles), _texts(added))
        return {**await turn.write(written, "turn", added), "dropped_messages": dropped}

    return await respond(request, body, opening, _Chat(server.engine.tokenizer, bool(body.logprobs)), finish)


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    return (text for message in messages for text in message.values())


class _Chat(Shape):
    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"
    opening: ClassVar = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def choice(self, choice: Choice) -> dict[str, Any]:
        shown = {**self._logprobs(choice.tokens), "refusal": None} if self.logprobs else None
        return {"message": {"role": "assistant", "content": choice.text, "refusal": None}, "logprobs": shown}

    def part(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        shown = self._logprobs(tokens) if self.logprobs and tokens else None
        return {"delta": {"content": text} if text or tokens else {}, "logprobs": shown}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        def item(text: str, data: bytes, logprob: float | None) -> dict[str, Any]:
            return {"token": text, "logprob": logprob, "bytes": list(data)}

        content = []
        for token in tokens:
            own, *others = (item(*one) for one in probed(self.tokenizer, token))
            content.append({**own, "top_logprobs": others})
        return {"content": content}
