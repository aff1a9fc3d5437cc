"""The bodies of memories, one by one."""

from typing import Annotated

from pydantic import Field, Tag, model_validator

from deltamem.serve.schema.body import Options, Question, SomeText, WholeText, by_form
from deltamem.serve.schema.messages import Messages

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
        Annotated[WholeText, Tag("str")] | Annotated[Messages, Tag("list")],
        by_form("Input should be a text or a list of messages"),
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


class UpdateMemory(Options):
    """The body of ``PUT /v1/memories/{id}``."""

    text: SomeText = Field(description="What to remember instead.")
    metadata: Metadata | None = Field(default=None, description="Instead of what there is; that stays if left out.")

    @model_validator(mode="after")
    def _something(self) -> "UpdateMemory":
        if not self.text.strip():
            raise ValueError("text: there is nothing to remember in it; delete the memory instead")
        return self
