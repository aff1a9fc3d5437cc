"""The bodies of requests, checked field by field. What the server cannot do it refuses instead of ignoring it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from deltamem.chat.words import phrase
from deltamem.files import from_json, is_text
from deltamem.serve.engine.sampling import MAX_LOGPROBS, Sampling
from deltamem.serve.tools import HERMES, Syntax, written
from deltamem.store import NAME_PATTERN


class Body(BaseModel):
    """A request's body: unknown fields are errors, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Options(Body):
    """A body in which null is the same as leaving a field out."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


def _whole(text: str) -> str:
    if not is_text(text):
        raise ValueError("it holds half of a surrogate pair, which is not a character")
    return text


def _type(value: Any) -> str:
    return type(value).__name__


def _type_of_first(values: list[Any]) -> str:
    return _type(values[0]) if values else "str"


def _checked_by(choose: Callable[[Any], str], otherwise: str) -> Discriminator:
    """Checks a value that may have several forms as the form it resembles, so that an error is about that form."""
    return Discriminator(choose, custom_error_type="wrong_form", custom_error_message=otherwise)


Role = Literal["user", "assistant", "tool"]
Roles = Annotated[list[Role], Field(min_length=1)]
WholeText = Annotated[str, AfterValidator(_whole)]
SessionName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", max_length=128, examples=["ravi"])]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86400)]
MaxTokens = Annotated[int, Field(ge=1, le=2**20)]
Nothing = Annotated[list[Any], Field(max_length=0)]

StopText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_whole)]
Stop = Annotated[
    Annotated[StopText, Tag("str")] | Annotated[list[StopText], Field(max_length=16), Tag("list")],
    _checked_by(_type, "Input should be a text or a list of texts"),
]


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: WholeText

    @model_validator(mode="before")
    @classmethod
    def _no_other_kind(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(f"the model reads text only, so a part of the type {kind!r} cannot be sent")
        return data


Content = Annotated[
    Annotated[WholeText, Tag("str")] | Annotated[list[TextPart], Tag("list")],
    _checked_by(_type, "Input should be a text or a list of text parts"),
]

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
PromptList = Annotated[
    Annotated[list[WholeText], Field(min_length=1, max_length=64), Tag("str")]
    | Annotated[TokenIds, Tag("int")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=64), Tag("list")],
    _checked_by(_type_of_first, "Input should be a list of texts, of token ids, or of lists of token ids"),
]
Prompt = Annotated[
    Annotated[WholeText, Tag("str")] | Annotated[PromptList, Tag("list")],
    _checked_by(_type, "Input should be a text or a list"),
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
        """Whether something becomes of what is written: a session's new version, or a state for the client."""
        return self.mode == "read_write" and (self.session is not None or self.return_state)

    @model_validator(mode="after")
    def _one_memory(self) -> "MemoryOptions":
        if self.state is not None and self.session is not None:
            raise ValueError("give a session or a state, not both")
        return self


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
            raise ValueError("it is no JSON") from None
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

    def plain(self, syntax: Syntax = HERMES) -> dict[str, str]:
        """Role and content as every chat template takes them; calls of tools are text."""
        calls = written([call.plain() for call in self.tool_calls or ()], syntax)
        content = "\n".join(part for part in (self.text, calls) if part)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}

    def structured(self) -> dict[str, Any]:
        """The same for a chat template that knows tools."""
        found: dict[str, Any] = {**self.plain(), "content": self.text}
        if self.tool_calls:
            calls = self.tool_calls
            found["tool_calls"] = [{"id": c.id, "type": "function", "function": c.plain()} for c in calls]
        return found | {name: value for name in ("name", "tool_call_id") if (value := getattr(self, name)) is not None}


class StreamOptions(Options):
    """What else a stream contains."""

    include_usage: bool = False
    include_obfuscation: bool = False


Choices = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1, max_length=1000)]
Biases = Annotated[
    dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


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
        older = {
            "json": self.guided_json,
            "regex": self.guided_regex,
            "choice": self.guided_choice,
            "grammar": self.guided_grammar,
        }
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
    _checked_by(_type, "Input should be none, auto, required, or a function"),
]


class ChatRequest(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
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
            raise ValueError("structured_outputs goes neither with response_format nor with tools")
        return self

    @property
    def shown_tools(self) -> list[Tool]:
        """The tools that the model is told of."""
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


class CompletionRequest(Generation):
    """The body of ``/v1/completions``."""

    prompt: Prompt
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: Literal[False] | None = Field(default=None, description="Not supported.")
    best_of: int | None = Field(default=None, ge=1, le=1, description="Not supported; 1 is accepted.")
    suffix: None = Field(default=None, description="Not supported.")


class CreateSession(Body):
    """The body of ``POST /v1/sessions``."""

    session: SessionName | None = Field(default=None, description="Its name; a random one by default.")
    label: Label | None = None
    expires_in: Seconds | None = Field(default=None, description="Seconds until it expires.")
    state: str | None = Field(default=None, description="A memory to start with, from an export or return_state.")


class ChangeSession(Body):
    """The body of ``PATCH /v1/sessions/{session}``: what is left out stays as it is."""

    label: Label | None = None
    user: SessionName | None = Field(default=None, description="Whose it is within the tenant.")
    expires_in: Seconds | None = None


class Observe(Body):
    """The body of ``POST …/observe``: a text, or messages."""

    text: WholeText | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = None
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages are written.")

    @model_validator(mode="after")
    def _one(self) -> "Observe":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        if not any(message["role"] in self.roles and message["content"].strip() for message in self.plain()):
            raise ValueError("nothing would be written: no text, or none of the roles that are written")
        return self

    def plain(self) -> list[dict[str, str]]:
        """The messages; a text is a user's."""
        if self.messages is None:
            return [{"role": "user", "content": self.text or ""}]
        return [message.plain() for message in self.messages]


Question = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_whole)]
Questions = Annotated[
    Annotated[list[Question], Field(min_length=1, max_length=64), Tag("list")]
    | Annotated[dict[str, Question], Field(min_length=1, max_length=64), Tag("dict")],
    _checked_by(_type, "Input should be a list of questions, or an object of questions by name"),
]


def _phrase(text: str) -> str:
    if not phrase(text):
        raise ValueError("give words of what is to be forgotten")
    return text


Phrase = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_phrase)]


class AskRecall(Options):
    """The body of ``POST …/recall``."""

    questions: Questions | None = Field(
        default=None, description="A list, or an object of questions by name; a profile of the user by default."
    )
    version: int | None = Field(default=None, ge=1, lt=2**31, description="The version to ask; the head by default.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="The least confidence that counts as known.")
    sources: bool = Field(default=True, description="Whether to look for the turns that answers came from.")
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages were written.")


class ForgetFact(Options):
    """The body of ``POST …/forget``; without one, everything is forgotten."""

    text: Phrase | None = Field(
        default=None, description="Forget the turns that say this, and what they wrote to memory."
    )
    words: Annotated[list[Phrase], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Forget the turns with a message that has all of these, such as recall's words."
    )
    versions: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=1, max_length=1000)] | None = (
        Field(default=None, description="Forget what was said in these versions.")
    )
    question: Question | None = Field(default=None, description="With answer: what the memory must no longer say.")
    answer: Question | None = None
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages were written.")

    @model_validator(mode="after")
    def _something(self) -> "ForgetFact":
        if (self.question is None) != (self.answer is None):
            raise ValueError("question and answer belong together")
        if not (self.replayed or self.question):
            raise ValueError(
                "say what to forget: text, words, versions, or question and answer; without a body, everything"
            )
        return self

    @property
    def replayed(self) -> bool:
        """Whether turns are to be taken out, rather than an answer."""
        return not (self.text is None and self.words is None and self.versions is None)


class Fork(Body):
    """The body of ``POST …/fork``."""

    session: SessionName | None = Field(default=None, description="The new session's name; a random one by default.")
    version: int | None = Field(default=None, ge=1, lt=2**31)
    label: Label | None = None
    expires_in: Seconds | None = None


class Rollback(Body):
    """The body of ``POST …/rollback``: to a version, or by a number of turns."""

    version: int | None = Field(default=None, ge=1, lt=2**31)
    turns: int | None = Field(default=None, ge=1, lt=2**31)

    @model_validator(mode="after")
    def _one(self) -> "Rollback":
        if (self.version is None) == (self.turns is None):
            raise ValueError("give either version or turns")
        return self


class Freeze(Body):
    """The body of ``POST …/freeze``."""

    frozen: bool = True


class Import(Body):
    """The body of ``POST …/import``: an export, as it came or its state alone."""

    state: str = Field(description="A memory from an export or return_state.")
    id: str | None = Field(default=None, description="Another field of an export; ignored.")
    session: str | None = None
    version: int | None = None
    tokens_written: int | None = None


class AskStrengths(Body):
    """The body of ``POST …/strengths``."""

    version: Annotated[int, Field(ge=1, lt=2**31, description="The version that the turn made.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = Field(
        default=None,
        description="What the turn was sent, and its answer. By default the messages that the server kept of it, "
        "as if no others had been visible.",
    )
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages were written.")


class EarlierTurn(Body):
    """A turn whose text an answer may have read from memory."""

    session: SessionName | None = Field(default=None, description="Its session; by default the one in the path.")
    version: Annotated[int, Field(ge=1, lt=2**31, description="The version that the turn made.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="As in the answer's turn."
    )


class AskSources(AskStrengths):
    """The body of ``POST …/sources``: the turn with the answer, and those before it."""

    past: Annotated[list[EarlierTurn], Field(min_length=1, max_length=1000)] = Field(
        description="Consecutive turns that led to the memory that the answer read, oldest first."
    )


# Ids are parts of a session's name, so they have no colon.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", examples=["ravi"])]
MetadataValue = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | WholeText
Metadata = Annotated[dict[WholeText, MetadataValue], Field(max_length=32)]


class Whose(Options):
    """Whose memories: of a user, an agent and a run, at least one of them."""

    user_id: Id | None = None
    agent_id: Id | None = None
    run_id: Id | None = None

    @model_validator(mode="after")
    def _somebody(self) -> "Whose":
        if self.user_id is None and self.agent_id is None and self.run_id is None:
            raise ValueError("say whose memories: user_id, agent_id or run_id")
        return self


class AddMemories(Whose):
    """The body of ``POST /v1/memories``."""

    messages: Annotated[
        Annotated[WholeText, Tag("str")]
        | Annotated[Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)], Tag("list")],
        _checked_by(_type, "Input should be a text or a list of messages"),
    ]
    metadata: Metadata | None = Field(default=None, description="Kept with each of them.")

    @model_validator(mode="after")
    def _something(self) -> "AddMemories":
        if not any(message["role"] != "system" and message["content"].strip() for message in self.plain()):
            raise ValueError("messages: there is nothing to remember in them")
        return self

    def plain(self) -> list[dict[str, str]]:
        """The messages; a text is a user's."""
        if isinstance(self.messages, str):
            return [{"role": "user", "content": self.messages}]
        return [message.plain() for message in self.messages]


class SearchMemories(Whose):
    """The body of ``POST /v1/memories/search``."""

    query: Question
    limit: int = Field(default=10, ge=1, le=100, description="The most texts.")
    ask: bool = Field(default=True, description="Whether the states are asked too, as recall does.")
    vectors: bool | None = Field(
        default=None, description="Whether texts are also found by meaning; by default if the server has an encoder."
    )


class EmbeddingsRequest(Options):
    """The body of ``/v1/embeddings``."""

    model: str = ""
    input: Annotated[
        Annotated[WholeText, Field(min_length=1), Tag("str")]
        | Annotated[list[Annotated[WholeText, Field(min_length=1)]], Field(min_length=1, max_length=2048), Tag("list")],
        _checked_by(_type, "Input should be a text or a list of texts"),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Nothing, or the encoder's own.")
    user: str | None = Field(default=None, description="Accepted and not used.")


class UpdateMemory(Options):
    """The body of ``PUT /v1/memories/{id}``."""

    text: Annotated[WholeText, Field(min_length=1)] = Field(description="What to remember instead.")
    metadata: Metadata | None = Field(default=None, description="Instead of what there is; that stays if left out.")

    @model_validator(mode="after")
    def _something(self) -> "UpdateMemory":
        if not self.text.strip():
            raise ValueError("text: there is nothing to remember in it; delete the memory instead")
        return self
