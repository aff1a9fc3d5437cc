"""Turns of the past, to be gone through again: their text, and the memories they began and ended with."""

from collections.abc import Sequence
from dataclasses import dataclass

from deltamem.chat import Message
from deltamem.serve.auth import Caller
from deltamem.serve.errors import ApiError
from deltamem.serve.fields import Role
from deltamem.serve.prompts import Prompts, Written, new_messages
from deltamem.serve.schema import ChatMessage
from deltamem.serve.server import Server
from deltamem.state import MemoryState

# Batches round differently, so a turn done again does not lead to quite the same numbers. Another text leads far away.
_DRIFT = 0.05


@dataclass(frozen=True)
class PastTurn:
    """A turn, or a text that was observed.

    Attributes:
        session: whose.
        version: the one that it made.
        answered: whether its last message is an answer.
        sent: what it was sent, and the answer.
        added: what became memory of that.
        written: ``[1, T]`` tokens, segment ids and write flags of it.
        before: the memory that it began with.
        after: the memory that it left.
    """

    session: str
    version: int
    answered: bool
    sent: Sequence[Message]
    added: Sequence[Message]
    written: Written
    before: MemoryState
    after: MemoryState

    @property
    def length(self) -> int:
        """T, how many tokens are to be gone through."""
        return self.written[0].shape[1]

    def check(self, reached: MemoryState) -> None:
        """Compares the memory with the one that its text leads to now.

        Raises:
            ApiError: they differ, so this is not the text.
        """
        if float(reached.diff(self.after).norm()) > _DRIFT * float(self.after.diff(self.before).norm()) + 1e-6:
            raise _not_the_turn(self.version, "they lead to another memory")


def past_turn(
    server: Server,
    caller: Caller,
    session: str,
    number: int,
    messages: Sequence[ChatMessage] | None,
    roles: Sequence[Role],
) -> PastTurn:
    """The turn that made a version, from its messages or from those that the server kept of it.

    Raises:
        ApiError: no text was written in the version, none was kept, or the messages do not end with an answer.
        StoreError: a version cannot be had.
    """
    fingerprint = server.states.fingerprint
    after = server.store.load(caller.tenant, session, number, expect=fingerprint)
    if after.kind not in ("turn", "observe") or after.parent is None:
        raise ApiError(
            400, f"Version {number} is a {after.kind}: no text was written in it.", "invalid_value", "version"
        )
    before = server.store.load(caller.tenant, session, after.parent, expect=fingerprint)
    sent = [m.plain() for m in messages] if messages else _kept(server, caller, session, number)
    answered = after.kind == "turn"
    if answered and sent[-1]["role"] != "assistant":
        raise _not_the_turn(number, "its last message is no answer")
    added = [*new_messages(sent[:-1]), sent[-1]] if answered else list(sent)
    written = server.prompts.written(added, roles)
    unpack = server.states.unpack
    return PastTurn(session, number, answered, sent, added, written, unpack(before.state), unpack(after.state))


def visible_messages(prompts: Prompts, sent: Sequence[Message]) -> list[Message]:
    """What a turn's model saw of the messages that it was sent, and its answer."""
    asked = list(sent[:-1])
    _, dropped = prompts.chat(asked, shorten=True)
    gone = [i for i, m in enumerate(asked[:-1]) if m["role"] != "system"][:dropped]
    return [message for i, message in enumerate(sent) if i not in gone]


def _kept(server: Server, caller: Caller, session: str, number: int) -> list[dict[str, str]]:
    log = server.store.messages(caller.tenant, session, version=number, limit=1000)
    kept = [{"role": m.message["role"], "content": m.message["content"]} for m in log if m.version == number]
    if not kept:
        raise ApiError(
            400, f"The text of version {number} was not kept: send its messages along.", "invalid_value", "messages"
        )
    return kept


def _not_the_turn(version: int, why: str) -> ApiError:
    return ApiError(
        400, f"These are not the messages that version {version} was made of: {why}.", "invalid_value", "messages"
    )
