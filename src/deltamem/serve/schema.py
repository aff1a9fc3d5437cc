"""The bodies of requests, checked field by field. What the server cannot do it refuses instead of ignoring it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from deltamem.serve.engine.sampling import MAX_LOGPROBS, Sampling
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
    if any("\ud800" <= character <= "\udfff" for character in text):
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
Zero = Annotated[float, Field(ge=0, le=0)]
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
    must_exist: bool = Field(default=False, description="404 instead of a new session.")
    fresh: bool = Field(default=False, description="Leave the session's memory behind and start fresh.")
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages are written.")
    state: str | None = Field(default=None, description="A memory from return_state, instead of a session.")
    return_state: bool = Field(default=False, description="Hand the memory after the turn to the client, signed.")

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


class ChatMessage(Options):
    """A message. Those that OpenAI's clients make of an answer may be sent back whole."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(default="", description="May be null, or left out, in an assistant's message alone.")
    name: str | None = None
    tool_call_id: str | None = None
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None

    @model_validator(mode="after")
    def _has_content(self) -> "ChatMessage":
        if self.role != "assistant" and "content" not in self.model_fields_set:
            raise ValueError(f"a message of the role {self.role} needs a content")
        return self

    def plain(self) -> dict[str, str]:
        """Role and content as a chat template takes them."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(Options):
    """What else a stream contains."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Generation(Options):
    """What both kinds of completion take; null is the default."""

    model: str = Field(default="", description="Any; the server has one model.")
    max_tokens: MaxTokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, description="The model's own, or 1, by default.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="The model's own, or 1, by default.")
    top_k: int | None = Field(
        default=None, ge=-1, lt=2**31, description="Of so many tokens; 0 and -1 of all. The model's own by default."
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
    frequency_penalty: Zero | None = Field(default=None, description="Not supported; 0 is accepted.")
    presence_penalty: Zero | None = Field(default=None, description="Not supported; 0 is accepted.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(None, description="Not supported.")
    ignore_eos: bool = Field(default=False, description="Go on after the end token, up to max_tokens.")
    user: str | None = Field(default=None, description="Accepted and not used.")
    memory: MemoryOptions | None = None
    return_state: bool = Field(default=False, description="The same as memory.return_state.")

    @property
    def most_tokens(self) -> int | None:
        """The most tokens to generate; ``None`` for the server's own bound."""
        return self.max_tokens

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
        }
        return replace(
            defaults,
            **{name: value for name, value in asked.items() if value is not None},
            seed=None if self.seed is None else self.seed + choice,
            stop=stop,
            logprobs=logprobs,
            ignore_end=self.ignore_eos,
        )


class ResponseFormat(Body):
    """Text, and nothing else."""

    type: Literal["text"]


class ChatRequest(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: MaxTokens | None = Field(
        default=None, description="max_tokens by its newer name; of both the smaller counts."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Nothing | None = Field(default=None, description="Not supported.")
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Accepted and not used.")
    store: bool | None = Field(default=None, description="Accepted and not used.")
    service_tier: str | None = Field(default=None, description="Accepted and not used.")

    @model_validator(mode="after")
    def _alternatives(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

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
    expires_in: Seconds | None = Field(default=None, description="Seconds after which it is gone.")
    state: str | None = Field(default=None, description="A memory to begin with, from an export or return_state.")


class ChangeSession(Body):
    """The body of ``PATCH /v1/sessions/{session}``: what is left out stays as it is."""

    label: Label | None = None
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


class AskRecall(Options):
    """The body of ``POST …/recall``."""

    questions: Questions | None = Field(
        default=None, description="A list, or an object of questions by name; a profile of the user by default."
    )
    version: int | None = Field(default=None, ge=1, lt=2**31, description="The version to ask; the head by default.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="The least confidence of what is known.")
    sources: bool = Field(default=True, description="Whether to look for the turns that answers came from.")
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages were written.")


class ForgetFact(Options):
    """The body of ``POST …/forget``; without one, everything is forgotten."""

    text: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        default=None, description="Forget the turns that say this, and what was remembered of them."
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
        if not (self.text or self.versions or self.question):
            raise ValueError("say what to forget: text, versions, or question and answer; without a body, everything")
        return self

    @property
    def replayed(self) -> bool:
        """Whether turns are to be taken out, rather than an answer."""
        return self.text is not None or self.versions is not None


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
    id: str | None = Field(default=None, description="The rest of an export; it does not count.")
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

    session: SessionName | None = Field(default=None, description="Whose; by default the session that is asked.")
    version: Annotated[int, Field(ge=1, lt=2**31, description="The version that the turn made.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="As for the answer's turn."
    )


class AskSources(AskStrengths):
    """The body of ``POST …/sources``: the turn with the answer, and those before it."""

    past: Annotated[list[EarlierTurn], Field(min_length=1, max_length=1000)] = Field(
        description="Turns that followed one another and led to the memory that the answer read, the oldest first."
    )
