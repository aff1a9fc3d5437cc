"""The bodies of completions: of a chat, and of a bare text."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from deltamem.serve.engine.sampling import MAX_LOGPROBS, Sampling
from deltamem.serve.schema.body import WHOLE, Body, Options, Roles, SessionName, WholeText, by_form
from deltamem.serve.schema.messages import Messages

MaxTokens = Annotated[int, Field(ge=1, le=2**20)]
StopText = Annotated[str, Field(min_length=1, max_length=200), WHOLE]
Stop = Annotated[
    Annotated[StopText, Tag("str")] | Annotated[list[StopText], Field(max_length=16), Tag("list")],
    by_form("Input should be a text or a list of texts"),
]
Choices = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1, max_length=1000)]
Biases = Annotated[
    dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


class MemoryOptions(Options):
    """Which memory a request uses, and how; null is the default."""

    session: SessionName | None = Field(
        default=None, description="The session; the same as the header X-Memory-Session."
    )
    mode: Literal["read_write", "read_only", "off"] = "read_write"
    must_exist: bool = Field(default=False, description="Answer 404 instead of creating a session.")
    fresh: bool = Field(default=False, description="Start with an empty memory and leave the session's old one behind.")
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages are written.")
    state: str | None = Field(default=None, description="A memory from return_state, instead of a session.")
    return_state: bool = Field(default=False, description="Send the client the memory after the turn, signed.")

    @property
    def uses_memory(self) -> bool:
        """Whether there is a memory that is read or handed back; without one the bare backbone answers."""
        return self.session is not None or self.state is not None or self.return_state

    @property
    def writes(self) -> bool:
        """Whether what is written is kept: in a session's new version, or in a state for the client."""
        return self.mode == "read_write" and (self.session is not None or self.return_state)

    @model_validator(mode="after")
    def _one_memory(self) -> "MemoryOptions":
        if self.state is not None and self.session is not None:
            raise ValueError("give a session or a state, not both")
        return self


class StreamOptions(Options):
    """What else a stream contains."""

    include_usage: bool = False
    include_obfuscation: bool = False


class StructuredOutputs(Options):
    """One form that an answer must have."""

    json_schema: dict[str, Any] | None = Field(default=None, alias="json", description="A JSON schema.")
    regex: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    choice: Choices | None = None
    grammar: Annotated[str, Field(min_length=1, max_length=100_000)] | None = Field(
        default=None, description="A grammar in Lark's notation."
    )
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of json, regex, choice, grammar and json_object")
        return self


class Generation(Options):
    """What both kinds of completion take; null is the default."""

    model: str = Field(default="", description="Any name; the server has one model.")
    max_tokens: MaxTokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, description="The model's own, or 1, by default.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="The model's own, or 1, by default.")
    top_k: int | None = Field(
        default=None,
        ge=-1,
        lt=2**31,
        description="Choose among this many likeliest tokens; 0 and -1 mean all. By default the model's own.",
    )
    min_p: float | None = Field(default=None, ge=0, le=1, description="The model's own, or 0, by default.")
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=10, description="The model's own, or 1, by default."
    )
    n: int = Field(default=1, ge=1, le=16)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Biases | None = Field(default=None, description="Added to the logits of tokens, by their ids.")
    structured_outputs: StructuredOutputs | None = Field(default=None, description="A form of the answer, as in vLLM.")
    guided_json: dict[str, Any] | None = Field(default=None, description="structured_outputs.json by its older name.")
    guided_regex: str | None = Field(default=None, description="structured_outputs.regex by its older name.")
    guided_choice: Choices | None = Field(default=None, description="structured_outputs.choice by its older name.")
    guided_grammar: str | None = Field(default=None, description="structured_outputs.grammar by its older name.")
    ignore_eos: bool = Field(default=False, description="Continue after the end token, up to max_tokens.")
    user: str | None = Field(default=None, description="Accepted and ignored.")
    memory: MemoryOptions | None = None
    return_state: bool = Field(default=False, description="The same as memory.return_state.")

    @property
    def most_tokens(self) -> int | None:
        """The most tokens to generate; ``None`` for the server's own bound."""
        return self.max_tokens

    @property
    def wanted(self) -> StructuredOutputs | None:
        """The form of the answer.

        Raises:
            ValueError: several are asked for.
        """
        older = {name: getattr(self, f"guided_{name}") for name in ("json", "regex", "choice", "grammar")}
        asked = {name: value for name, value in older.items() if value is not None}
        if not asked:
            return self.structured_outputs
        if self.structured_outputs is not None:
            raise ValueError("give structured_outputs or one of the guided_ fields")
        return StructuredOutputs.model_validate(asked)

    @model_validator(mode="after")
    def _one_form(self) -> "Generation":
        _ = self.wanted
        return self

    def sampling(self, defaults: Sampling, logprobs: int | None, choice: int) -> Sampling:
        """How choice number ``choice`` is sampled: as the request says, else as ``defaults`` do."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        asked: dict[str, Any] = {
            "max_tokens": self.most_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(0, self.top_k),
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
        }
        return replace(
            defaults,
            **{name: value for name, value in asked.items() if value is not None},
            seed=None if self.seed is None else self.seed + choice,
            stop=stop,
            logprobs=logprobs,
            ignore_end=self.ignore_eos,
        )


class JsonSchema(Options):
    """A JSON schema with a name."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(default={"type": "object"}, alias="schema")
    strict: bool | None = None


class ResponseFormat(Options):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _with_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("give json_schema with the type json_schema, and only with it")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """What the answer's JSON must be; ``None`` for text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.schema_


ToolName = Annotated[str, Field(pattern="^[a-zA-Z0-9_.-]+$", max_length=128)]


class Function(Options):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] = Field(default={"type": "object", "properties": {}}, description="A JSON schema.")
    strict: bool | None = Field(default=None, description="Accepted; required calls always fit the schema.")


class Tool(Body):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function

    def shown(self) -> dict[str, Any]:
        """As a chat template takes it."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True, exclude={"strict"})}


class NamedTool(Body):
    """A tool by its name."""

    name: ToolName


class ChosenTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedTool


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("str")] | Annotated[ChosenTool, Tag("dict")],
    by_form("Input should be none, auto, required, or a function"),
]


class ChatRequest(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: Messages
    max_completion_tokens: MaxTokens | None = Field(
        default=None, description="The newer name of max_tokens; the smaller of both counts."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = Field(default=None, description="auto by default.")
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether several calls may come at once; for required calls only if true."
    )
    metadata: dict[str, str] | None = Field(default=None, description="Accepted and ignored.")
    store: bool | None = Field(default=None, description="Accepted and ignored.")
    service_tier: str | None = Field(default=None, description="Accepted and ignored.")
    safety_identifier: str | None = Field(default=None, description="Accepted and ignored.")
    prompt_cache_key: str | None = Field(default=None, description="Accepted and ignored.")

    @model_validator(mode="after")
    def _alternatives(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        if isinstance(self.tool_choice, ChosenTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice: there is no tool {self.tool_choice.function.name!r}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: a call is required, and there are no tools")
        if self.wanted is not None and (self.response_format is not None or self.shown_tools):
            raise ValueError("structured_outputs cannot be combined with response_format or tools")
        return self

    @property
    def shown_tools(self) -> list[Tool]:
        """The tools that the prompt describes to the model."""
        return [] if self.tool_choice == "none" else list(self.tools or ())

    @property
    def required_tools(self) -> list[Tool]:
        """Those of which one must be called; none if the model may answer otherwise."""
        if isinstance(self.tool_choice, ChosenTool):
            wanted = self.tool_choice.function.name
            return [tool for tool in self.tools or () if tool.function.name == wanted]
        return list(self.tools or ()) if self.tool_choice == "required" else []

    @property
    def most_tokens(self) -> int | None:
        """The smaller of the two bounds."""
        return min((most for most in (self.max_tokens, self.max_completion_tokens) if most), default=None)

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to report for each token; ``None`` for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _type_of_first(values: list[Any]) -> str:
    return type(values[0]).__name__ if values else "str"


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
PromptList = Annotated[
    Annotated[list[WholeText], Field(min_length=1, max_length=64), Tag("str")]
    | Annotated[TokenIds, Tag("int")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=64), Tag("list")],
    by_form("Input should be a list of texts, of token ids, or of lists of token ids", _type_of_first),
]
Prompt = Annotated[
    Annotated[WholeText, Tag("str")] | Annotated[PromptList, Tag("list")],
    by_form("Input should be a text or a list"),
]


class CompletionRequest(Generation):
    """The body of ``/v1/completions``."""

    prompt: Prompt
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: Literal[False] | None = Field(default=None, description="Not supported.")
    best_of: int | None = Field(default=None, ge=1, le=1, description="Not supported; 1 is accepted.")
    suffix: None = Field(default=None, description="Not supported.")
