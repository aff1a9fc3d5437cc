"""The bodies of what is done with a session."""

from typing import Annotated

from pydantic import AfterValidator, Field, Tag, model_validator

from deltamem.chat.words import phrase
from deltamem.serve.schema.body import (
    Body,
    Label,
    Options,
    Question,
    Roles,
    Seconds,
    SessionName,
    Version,
    WholeText,
    by_form,
)
from deltamem.serve.schema.messages import Messages


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
    messages: Messages | None = None
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


Questions = Annotated[
    Annotated[list[Question], Field(min_length=1, max_length=64), Tag("list")]
    | Annotated[dict[str, Question], Field(min_length=1, max_length=64), Tag("dict")],
    by_form("Input should be a list of questions, or an object of questions by name"),
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
    version: Version | None = Field(default=None, description="The version to ask; the head by default.")
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
    versions: Annotated[list[Version], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Forget what was said in these versions."
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
    version: Version | None = None
    label: Label | None = None
    expires_in: Seconds | None = None


class Rollback(Body):
    """The body of ``POST …/rollback``: to a version, or by a number of turns."""

    version: Version | None = None
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

    version: Annotated[Version, Field(description="The version that the turn made.")]
    messages: Messages | None = Field(
        default=None,
        description="What the turn was sent, and its answer. By default the messages that the server kept of it, "
        "as if no others had been visible.",
    )
    roles: Roles = Field(default=["user", "assistant", "tool"], description="Whose messages were written.")


class EarlierTurn(Body):
    """A turn whose text an answer may have read from memory."""

    session: SessionName | None = Field(default=None, description="Its session; by default the one in the path.")
    version: Annotated[Version, Field(description="The version that the turn made.")]
    messages: Messages | None = Field(default=None, description="As in the answer's turn.")


class AskSources(AskStrengths):
    """The body of ``POST …/sources``: the turn with the answer, and those before it."""

    past: Annotated[list[EarlierTurn], Field(min_length=1, max_length=1000)] = Field(
        description="Consecutive turns that led to the memory that the answer read, oldest first."
    )
