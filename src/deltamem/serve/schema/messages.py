"""Messages, and the calls of tools in them, as OpenAI's clients send them."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, field_validator, model_validator

from deltamem.files import from_json
from deltamem.serve.engine.constraint import CallShape
from deltamem.serve.schema.body import Body, Options, WholeText, by_form, only_type
from deltamem.serve.tools import HERMES, written

Nothing = Annotated[list[Any], Field(max_length=0)]


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: WholeText

    _text_only = only_type("text", otherwise="the model reads text only, so a part of the type {} cannot be sent")


Content = Annotated[
    Annotated[WholeText, Tag("str")] | Annotated[list[TextPart], Tag("list")],
    by_form("Input should be a text or a list of text parts"),
]


class CalledFunction(Body):
    """A tool and the arguments that it was called with, which are JSON as text."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _an_object(cls, text: str) -> str:
        try:
            found = from_json(text or "{}")
        except ValueError:
            raise ValueError("it is not valid JSON") from None
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        return text


class ToolCall(Body):
    """A call of a tool, as an answer had it."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def plain(self) -> dict[str, Any]:
        """The tool's name, and its arguments as values."""
        return {"name": self.function.name, "arguments": json.loads(self.function.arguments or "{}")}


class ChatMessage(Options):
    """A message. Those that OpenAI's clients make of an answer may be sent back whole."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(default="", description="Only an assistant's message may have null, or leave it out.")
    name: str | None = None
    tool_call_id: str | None = None
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=64)] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> "ChatMessage":
        if self.role != "assistant" and "content" not in self.model_fields_set:
            raise ValueError(f"a message of the role {self.role} needs a content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's message has tool_calls")
        return self

    @property
    def text(self) -> str:
        """Its content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def plain(self, shape: CallShape = HERMES) -> dict[str, str]:
        """Role and content as every chat template takes them; calls of tools are text."""
        calls = written([call.plain() for call in self.tool_calls or ()], shape)
        content = "\n".join(part for part in (self.text, calls) if part)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}

    def structured(self) -> dict[str, Any]:
        """The same for a chat template that knows tools."""
        found: dict[str, Any] = {**self.plain(), "content": self.text}
        if self.tool_calls:
            calls = self.tool_calls
            found["tool_calls"] = [{"id": c.id, "type": "function", "function": c.plain()} for c in calls]
        return found | {name: value for name in ("name", "tool_call_id") if (value := getattr(self, name)) is not None}


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
