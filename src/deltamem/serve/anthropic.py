"""Anthropic's Messages in terms of chat: what is asked, and how it is answered."""

import json
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from deltamem.files import from_json
from deltamem.serve.parts import AnswerParts
from deltamem.serve.schema.body import Options, WholeText, by_form
from deltamem.serve.schema.completions import ChatRequest, MaxTokens, MemoryOptions, ToolName
from deltamem.serve.tools import Called, CallReader

_FORM = by_form("Input should be a text or a list of blocks")
CacheControl = Annotated[dict[str, Any] | None, Field(description="Accepted and not used.")]


class TextBlock(Options):
    """A block of text."""

    type: Literal["text"]
    text: WholeText
    citations: None = None
    cache_control: CacheControl = None


Texts = Annotated[Annotated[WholeText, Tag("str")] | Annotated[list[TextBlock], Tag("list")], _FORM]


class ToolUse(Options):
    """A call of a tool, as an answer had it."""

    type: Literal["tool_use"]
    id: str
    name: ToolName
    input: dict[str, Any]
    cache_control: CacheControl = None


class ToolResult(Options):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts = ""
    is_error: bool = False
    cache_control: CacheControl = None


Block = Annotated[TextBlock | ToolUse | ToolResult, Field(discriminator="type")]
Content = Annotated[
    Annotated[WholeText, Tag("str")] | Annotated[Annotated[list[Block], Field(max_length=1000)], Tag("list")], _FORM
]


class MessageBlocks(Options):
    """A message: a text, or blocks."""

    role: Literal["user", "assistant"]
    content: Content

    @model_validator(mode="before")
    @classmethod
    def _no_other_kind(cls, data: Any) -> Any:
        blocks = data.get("content") if isinstance(data, dict) else None
        for block in blocks if isinstance(blocks, list) else []:
            kind = block.get("type") if isinstance(block, dict) else None
            if isinstance(kind, str) and kind not in ("text", "tool_use", "tool_result"):
                raise ValueError(f"the model reads text only, so a block of the type {kind!r} cannot be sent")
        return data

    def chat(self) -> list[dict[str, Any]]:
        """The same as messages for chat: results of tools, then what is said and called."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        results = [
            {"role": "tool", "content": _text(block.content), "tool_call_id": block.tool_use_id}
            for block in self.content
            if isinstance(block, ToolResult)
        ]
        said = "".join(block.text for block in self.content if isinstance(block, TextBlock))
        calls = [
            {
                "id": block.id,
                "type": "function",
                "function": {"name": block.name, "arguments": json.dumps(block.input)},
            }
            for block in self.content
            if isinstance(block, ToolUse)
        ]
        message = {"role": self.role, "content": said} | ({"tool_calls": calls} if calls else {})
        return [*results, message] if said or calls or not results else results


class ClientTool(Options):
    """A tool of the client's."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl = None


class WantedTools(Options):
    """Which tools must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> "WantedTools":
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("give name with the type tool, and only with it")
        return self

    @property
    def chat(self) -> str | dict[str, Any]:
        """The same for chat."""
        if self.name is not None:
            return {"type": "function", "function": {"name": self.name}}
        return "required" if self.type == "any" else self.type


class Thinking(Options):
    """Whether the model thinks aloud; it does not."""

    type: Literal["disabled", "adaptive"]
    display: str | None = None


class JsonOutput(Options):
    """The form of an answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Options):
    """How answers are given; only their form is used."""

    format: JsonOutput | None = None
    effort: str | None = None


class CountTokensRequest(Options):
    """The body of ``/v1/messages/count_tokens``: what a prompt is made of."""

    model: str = ""
    messages: Annotated[list[MessageBlocks], Field(min_length=1, max_length=1000)]
    system: Texts | None = None
    tools: Annotated[list[ClientTool], Field(max_length=128)] | None = None
    tool_choice: WantedTools | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl = None

    def chat(self) -> ChatRequest:
        """The same as a request for chat.

        Raises:
            ValidationError: its parts do not belong together.
        """
        return ChatRequest.model_validate(self._fields())

    def _fields(self) -> dict[str, Any]:
        system = [{"role": "system", "content": _text(self.system)}] if self.system else []
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in self.tools or ()
        ]
        form = self.output_config.format if self.output_config else None
        schema = None if form is None else {"name": "answer", "schema": form.schema_}
        parallel = None
        if self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use is not None:
            parallel = not self.tool_choice.disable_parallel_tool_use
        return {
            "messages": [*system, *(message for one in self.messages for message in one.chat())],
            "tools": tools or None,
            "tool_choice": self.tool_choice.chat if self.tool_choice is not None and tools else None,
            "parallel_tool_calls": parallel,
            "response_format": None if schema is None else {"type": "json_schema", "json_schema": schema},
        }


class MessagesRequest(CountTokensRequest):
    """The body of ``/v1/messages``."""

    max_tokens: MaxTokens
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    stream: bool = False
    memory: MemoryOptions | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Accepted and not used.")
    service_tier: str | None = Field(default=None, description="Accepted and not used.")

    def _fields(self) -> dict[str, Any]:
        return {
            **super()._fields(),
            "max_completion_tokens": self.max_tokens,
            "stop": self.stop_sequences or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "memory": self.memory,
        }


class Blocks(AnswerParts):
    """The blocks of an answer; without a reader, where the model was told of no tools, all is text."""

    def __init__(self, reader: CallReader | None) -> None:
        super().__init__(reader)
        self._arguments = ""

    @property
    def called(self) -> bool:
        """Whether a tool was called."""
        return any(block["type"] == "tool_use" for block in self.parts)

    def begin_text(self) -> Iterator[dict[str, Any]]:
        """Begins a block of text."""
        yield self._begin({"type": "text", "text": ""})

    def begin_call(self, call: Called) -> Iterator[dict[str, Any]]:
        """Begins a call."""
        yield self._begin({"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": call.name, "input": {}})

    def say(self, text: str) -> dict[str, Any]:
        """Adds text."""
        self.parts[-1]["text"] += text
        return self._delta({"type": "text_delta", "text": text})

    def argue(self, text: str) -> dict[str, Any]:
        """Adds to the arguments of a call."""
        self._arguments += text
        return self._delta({"type": "input_json_delta", "partial_json": text})

    def end(self) -> Iterator[dict[str, Any]]:
        """Ends a block."""
        if self.parts[-1]["type"] == "tool_use":
            self.parts[-1]["input"] = _object(self._arguments)
        yield {"type": "content_block_stop", "index": len(self.parts) - 1}

    def _begin(self, block: dict[str, Any]) -> dict[str, Any]:
        self.parts.append(block)
        self._arguments = ""
        return {"type": "content_block_start", "index": len(self.parts) - 1, "content_block": dict(block)}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.parts) - 1, "delta": delta}


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as values; none where the answer was cut off among them."""
    try:
        found = from_json(arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
