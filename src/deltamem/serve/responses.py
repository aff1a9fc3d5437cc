"""OpenAI's Responses in terms of chat: what is asked, how it is answered, and which session a response belongs to."""

import base64
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from deltamem.serve.errors import ApiError
from deltamem.serve.parts import AnswerParts
from deltamem.serve.schema.body import Body, Options, SessionName, SomeText, WholeText, by_form, only_type
from deltamem.serve.schema.completions import (
    ChatRequest,
    Function,
    MaxTokens,
    MemoryOptions,
    ResponseFormat,
    Tool,
    ToolName,
)
from deltamem.serve.schema.messages import ChatMessage
from deltamem.serve.tools import Called
from deltamem.store import NAME_PATTERN

_SESSION = re.compile(NAME_PATTERN)


class ResponsePart(Body):
    """A part of a message's content."""

    type: Literal["input_text", "output_text", "text"]
    text: WholeText
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None

    _text_only = only_type(
        "input_text",
        "output_text",
        "text",
        otherwise="the model reads text only, so a part of the type {} cannot be sent",
    )


Parts = Annotated[
    Annotated[WholeText, Tag("str")] | Annotated[list[ResponsePart], Tag("list")],
    by_form("Input should be a text or a list of text parts"),
]


class MessageItem(Options):
    """A message, of the user's or of an earlier response."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class CallItem(Options):
    """A call of an earlier response."""

    type: Literal["function_call"]
    call_id: str
    name: ToolName
    arguments: str
    id: str | None = None
    status: str | None = None
    namespace: str | None = None


class OutputItem(Options):
    """What a tool gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Parts
    id: str | None = None
    status: str | None = None


class ReasoningItem(Options):
    """Accepted and ignored."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: str | None = None


def _kind(value: Any) -> str:
    return str((value.get("type") if isinstance(value, dict) else value.type) or "message")


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    by_form(
        "Input should be a message, a function_call, a function_call_output or a reasoning item",
        lambda value: _kind(value) if isinstance(value, dict) or hasattr(value, "type") else "other",
    ),
]


class FlatTool(Function):
    """A function that the model may call."""

    type: Literal["function"]

    _no_hosted = only_type(
        "function", otherwise="there are no hosted tools, so one of the type {} cannot be used; give functions"
    )


class NamedFlat(Options):
    """The function that must be called."""

    type: Literal["function"]
    name: ToolName


class FlatFormat(Options):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Options):
    """How the text is to be."""

    format: FlatFormat | None = None
    verbosity: str | None = Field(default=None, description="Accepted and ignored.")


class ConversationId(Options):
    """A conversation by its id."""

    id: SessionName


Input = Annotated[
    Annotated[SomeText, Tag("str")] | Annotated[list[Item], Field(min_length=1, max_length=1000), Tag("list")],
    by_form("Input should be a text or a list of items"),
]


class ResponseRequest(Options):
    """The body of ``/v1/responses``; null is the default."""

    model: str = ""
    input: Input
    instructions: WholeText | None = None
    previous_response_id: str | None = Field(default=None, description="The response to continue from.")
    conversation: SessionName | ConversationId | None = Field(default=None, description="The memory session to use.")
    store: bool = Field(default=True, description="Whether you can continue from the response.")
    stream: bool = False
    tools: Annotated[list[FlatTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFlat | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    text: TextOptions | None = None
    memory: MemoryOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = Field(default=None, description="Accepted and ignored, like those after it.")
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    stream_options: dict[str, Any] | None = None
    background: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    max_tool_calls: int | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "ResponseRequest":
        if self.conversation is not None and self.previous_response_id is not None:
            raise ValueError("give conversation or previous_response_id, not both")
        return self

    @property
    def named_session(self) -> str | None:
        """The session of the conversation."""
        found = self.conversation
        return found.id if isinstance(found, ConversationId) else found

    def chat(self, before: Sequence[ChatMessage]) -> ChatRequest:
        """The same as a request for chat, after the messages that come before."""
        said = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        choice = self.tool_choice
        form = self.text.format if self.text else None
        fields: dict[str, Any] = {
            "messages": [*said, *before, *self._messages()],
            "tools": [
                Tool(type="function", function=Function(**tool.model_dump(exclude={"type"}, exclude_none=True)))
                for tool in self.tools or ()
            ],
            "tool_choice": {"type": "function", "function": {"name": choice.name}}
            if isinstance(choice, NamedFlat)
            else choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "response_format": None if form is None else _format(form),
            "memory": self.memory,
        }
        return ChatRequest.model_validate(fields)

    def _messages(self) -> list[ChatMessage]:
        if isinstance(self.input, str):
            return [ChatMessage(role="user", content=self.input)]
        found: list[ChatMessage] = []
        for item in self.input:
            if isinstance(item, MessageItem):
                found.append(ChatMessage(role=item.role, content=_text(item.content)))
            elif isinstance(item, OutputItem):
                found.append(ChatMessage(role="tool", content=_text(item.output), tool_call_id=item.call_id))
            elif isinstance(item, CallItem):
                call = {
                    "id": item.call_id,
                    "type": "function",
                    "function": {"name": item.name, "arguments": item.arguments},
                }
                last = found[-1] if found else None
                if last is not None and last.role == "assistant":  # what was said and called is one message
                    calls = [*(one.model_dump() for one in last.tool_calls or ()), call]
                    found[-1] = ChatMessage.model_validate(
                        {"role": "assistant", "content": last.text, "tool_calls": calls}
                    )
                else:
                    found.append(ChatMessage.model_validate({"role": "assistant", "tool_calls": [call]}))
        return found


def _text(content: str | list[ResponsePart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _format(form: FlatFormat) -> ResponseFormat:
    if form.type != "json_schema":
        return ResponseFormat(type=form.type)
    schema = {"name": form.name or "answer", "schema": form.schema_ or {"type": "object"}}
    return ResponseFormat.model_validate({"type": "json_schema", "json_schema": schema})


def response_id(session: str, version: int) -> str:
    """The id of the response that made a version of a session."""
    return "resp_" + base64.urlsafe_b64encode(f"{version}:{session}".encode()).decode().rstrip("=")


def session_of(response: str) -> tuple[str, int]:
    """The session and version of a response.

    Raises:
        ApiError: 404, no response of that id can be continued.
    """
    text = response.removeprefix("resp_")
    try:
        number, _, session = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
        if response.startswith("resp_") and _SESSION.fullmatch(session):
            return session, int(number)
    except ValueError:
        pass
    raise ApiError(404, f"There is no response {response!r} to continue.", "not_found", "previous_response_id")


class Output(AnswerParts):
    """The items of a response."""

    def begin_text(self) -> Iterator[dict[str, Any]]:
        """Begins a message."""
        item = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": "in_progress", "role": "assistant"}
        yield self._begin({**item, "content": []})
        self.parts[-1]["content"].append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
        yield self._event("response.content_part.added", content_index=0, part=dict(self.parts[-1]["content"][0]))

    def begin_call(self, call: Called) -> Iterator[dict[str, Any]]:
        """Begins a call."""
        item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "in_progress"}
        yield self._begin({**item, "call_id": call.id, "name": call.name, "arguments": ""})

    def say(self, text: str) -> dict[str, Any]:
        """Adds to a message."""
        self.parts[-1]["content"][0]["text"] += text
        return self._event("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def argue(self, text: str) -> dict[str, Any]:
        """Adds to the arguments of a call."""
        self.parts[-1]["arguments"] += text
        return self._event("response.function_call_arguments.delta", delta=text)

    def end(self) -> Iterator[dict[str, Any]]:
        """Ends an item."""
        item = self.parts[-1]
        item["status"] = "completed"
        if item["type"] == "message":
            (part,) = item["content"]
            yield self._event("response.output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._event("response.content_part.done", content_index=0, part=part)
        else:
            arguments = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **arguments)
        yield {"type": "response.output_item.done", "output_index": len(self.parts) - 1, "item": item}

    def _begin(self, item: dict[str, Any]) -> dict[str, Any]:
        self.parts.append(item)
        shown = {**item, "content": []} if "content" in item else dict(item)
        return {"type": "response.output_item.added", "output_index": len(self.parts) - 1, "item": shown}

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        place = {"item_id": self.parts[-1]["id"], "output_index": len(self.parts) - 1}
        return {"type": kind, **place, **fields}
