"""``/v1/chat/completions``: OpenAI's chat, with a memory."""

from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deltamem.chat import Message
from deltamem.serve.access import Caller
from deltamem.serve.bridge import encoded
from deltamem.serve.engine.constraint import CallShape
from deltamem.serve.forms import form_of
from deltamem.serve.generations import Choice, Generations, Token
from deltamem.serve.prompts import Prompts, answer_message, new_messages
from deltamem.serve.routes.answering import Finish, Shape, probed, respond
from deltamem.serve.routes.common import (
    WHOLE_OR_STREAMED,
    AskerOf,
    ServerOf,
    SessionHeader,
    check_biases,
    memory_options,
)
from deltamem.serve.schema.completions import ChatRequest, MemoryOptions
from deltamem.serve.server import Server
from deltamem.serve.tools import Called, CallReader, Event, Said, read_calls

router = APIRouter(prefix="/v1", tags=["openai"])


@router.post("/chat/completions", summary="Answer messages, reading and writing a memory", responses=WHOLE_OR_STREAMED)
async def chat_completions(
    body: ChatRequest, request: Request, server: ServerOf, caller: AskerOf, session: SessionHeader = None
) -> Response:
    """Answers messages.

    With a session (``X-Memory-Session`` or ``memory.session``) the answer is read from its memory as the turn
    began. What is new (the messages since the last assistant message, and the answer) is then written and
    committed, and only after that is the answer complete: a stream's last chunk and ``[DONE]`` mean that it is
    kept. Older messages that do not fit the model's positions are left out; the memory has them. Without a session
    the model answers as its bare backbone.
    """
    conversation = await Conversation.of(body, request, server, caller, memory_options(body, session))
    tools, tokenizer = body.shown_tools, server.engine.tokenizer
    shape = _Chat(tokenizer, bool(body.logprobs), server.prompts.syntax if tools else None)
    return await respond(request, body, conversation.opening, shape, conversation.finish)


@dataclass(frozen=True)
class Conversation:
    """A request for chat on its way to an answer.

    Attributes:
        opening: opens the memory and starts the generations.
        finish: writes the turn, and gives what the answer says of the memory.
    """

    opening: Coroutine[Any, Any, Generations]
    finish: Finish

    @classmethod
    async def of(
        cls, body: ChatRequest, request: Request, server: Server, caller: Caller, options: MemoryOptions
    ) -> "Conversation":
        """Makes the prompt of a request.

        Raises:
            ApiError: the messages cannot be rendered or do not fit, or the answer's form cannot be followed.
        """
        prompts = server.prompts
        messages, shown, tools = in_prompt(body, prompts)
        shorten = options.session is not None
        ids, dropped = await encoded(lambda: prompts.chat(shown, shorten=shorten, tools=tools), texts_of(messages))
        check_biases(body, prompts.vocabulary)
        form = await form_of(server, body)
        samplings = [body.sampling(server.sampling, body.alternatives, i) for i in range(body.n)]

        async def finish(generations: Generations) -> dict[str, Any]:
            turn = generations.turn
            added = [*new_messages(messages), answer_message(generations.choices[0].text)]
            written = await encoded(lambda: prompts.written(added, turn.options.roles), texts_of(added))
            return {**await turn.write(written, "turn", added), "dropped_messages": dropped}

        return cls(Generations.open(server, caller, request, options, [ids], samplings, form=form), finish)


def in_prompt(
    body: ChatRequest, prompts: Prompts
) -> tuple[Sequence[Message], Sequence[Message], Sequence[dict[str, Any]]]:
    """A request's messages as they are kept and as its prompt shows them, and the tools it tells of."""
    messages = [message.plain(prompts.syntax) for message in body.messages]
    shown = [message.structured() for message in body.messages] if prompts.knows_tools else messages
    return messages, shown, [tool.shown() for tool in body.shown_tools]


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """All that messages say."""
    return (text for message in messages for text in message.values())


@dataclass(frozen=True)
class _Chat(Shape):
    """Chat, whose answers may call tools.

    Attributes:
        syntax: how the model writes calls; ``None`` where it was told of no tools.
    """

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"
    opening: ClassVar = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    syntax: CallShape | None = None
    _readers: dict[int, CallReader] = field(default_factory=dict, init=False)

    def choice(self, choice: Choice) -> dict[str, Any]:
        shown = {**self._logprobs(choice.tokens), "refusal": None} if self.logprobs else None
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        text, calls = self._read(choice)
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        return {"message": message, "logprobs": shown}

    def part(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        shown = self._logprobs(tokens) if self.logprobs and tokens else None
        return {"delta": {"content": text} if text or tokens else {}, "logprobs": shown}

    def parts(self, index: int, text: str, tokens: Sequence[Token]) -> Iterator[dict[str, Any]]:
        if self.syntax is None:
            yield from super().parts(index, text, tokens)
            return
        deltas = self._deltas(self._reader(index, self.syntax).push(text))
        shown = self._logprobs(tokens) if self.logprobs and tokens else None
        if shown is not None and not deltas:
            deltas = [{}]
        for place, delta in enumerate(deltas):
            yield {"delta": delta, "logprobs": None if place else shown}

    def rest(self, index: int) -> Iterator[dict[str, Any]]:
        if self.syntax is not None:
            for delta in self._deltas(self._reader(index, self.syntax).finish()):
                yield {"delta": delta, "logprobs": None}

    def reason(self, index: int, choice: Choice) -> str | None:
        called = index in self._readers and self._readers[index].calls
        if choice.reason == "stop" and (called or self._read(choice)[1]):
            return "tool_calls"
        return choice.reason

    def _reader(self, index: int, syntax: CallShape) -> CallReader:
        return self._readers.setdefault(index, CallReader(syntax))

    def _read(self, choice: Choice) -> tuple[str, list[dict[str, Any]]]:
        """A whole answer's text, and its calls."""
        if self.syntax is None:
            return choice.text, []
        return read_calls(choice.text, self.syntax)

    def _deltas(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for event in events:
            if isinstance(event, Said):
                found.append({"content": event.text})
            elif isinstance(event, Called):
                function = {"name": event.name, "arguments": ""}
                call = {"index": event.number, "id": event.id, "type": "function", "function": function}
                found.append({"tool_calls": [call]})
            else:
                call = {"index": event.number, "function": {"arguments": event.text}}
                found.append({"tool_calls": [call]})
        return found

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        def item(text: str, data: bytes, logprob: float | None) -> dict[str, Any]:
            return {"token": text, "logprob": logprob, "bytes": list(data)}

        content = []
        for token in tokens:
            own, *others = (item(*one) for one in probed(self.tokenizer, token))
            content.append({**own, "top_logprobs": others})
        return {"content": content}
