"""``/v1/sessions/{session}/strengths``: which tokens of a turn were written and read, and how strongly."""

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from torch import Tensor

from deltamem.chat import Message, encode_chat
from deltamem.serve.auth import Caller
from deltamem.serve.beside import Check, beside_engine
from deltamem.serve.errors import ApiError
from deltamem.serve.prompts import new_messages
from deltamem.serve.routes.common import CallerOf, ServerOf
from deltamem.serve.routes.sessions import Session
from deltamem.serve.schema import AskStrengths, Role
from deltamem.serve.server import Server
from deltamem.serve.strengths import content_tokens, read_strengths, write_strengths
from deltamem.state import MemoryState
from deltamem.store import Version

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])
_MOST = 1024
# Batches round differently, so a turn done again does not lead to quite the same numbers. Another text leads far away.
_DRIFT = 0.05


class TokenItem(BaseModel):
    """A token of a message's content.

    ``write`` is the Frobenius norm of its change to all states of all layers, ``read`` the norm of all that it read
    while the answer was generated.
    """

    text: str
    write: float
    read: float | None


class MessageStrengths(BaseModel):
    """A message of the turn."""

    role: str
    tokens: list[TokenItem]


class TurnStrengths(BaseModel):
    """The strengths of a turn's tokens, message by message."""

    object: Literal["memory.strengths"] = "memory.strengths"
    version: int
    data: list[MessageStrengths]


@router.post("/{session}/strengths", summary="How strongly a turn's tokens were written and read")
async def strengths(
    session: Session, body: AskStrengths, request: Request, server: ServerOf, caller: CallerOf
) -> TurnStrengths:
    """Goes through a turn again, on the memory that it began with, and weighs each token.

    Nothing is changed. The server needs both versions, and the text: kept by it, or sent along.
    """

    def weigh(check: Check) -> TurnStrengths:
        before, after = _versions(server, caller, session, body.version)
        sent = [m.plain() for m in body.messages] if body.messages else _kept(server, caller, session, body.version)
        return _weigh(server, sent, body.roles, before, after, check)

    weighed = await beside_engine(server, caller, request, weigh)
    server.rates.charge(caller, sum(len(message.tokens) for message in weighed.data))
    return weighed


def _versions(server: Server, caller: Caller, session: str, number: int) -> tuple[Version, Version]:
    after = server.store.load(caller.tenant, session, number, expect=server.states.fingerprint)
    if after.kind not in ("turn", "observe") or after.parent is None:
        raise ApiError(
            400, f"Version {number} is a {after.kind}: no text was written in it.", "invalid_value", "version"
        )
    return server.store.load(caller.tenant, session, after.parent, expect=server.states.fingerprint), after


def _kept(server: Server, caller: Caller, session: str, number: int) -> list[dict[str, str]]:
    log = server.store.messages(caller.tenant, session, version=number, limit=1000)
    kept = [{"role": m.message["role"], "content": m.message["content"]} for m in log if m.version == number]
    if not kept:
        raise ApiError(
            400, f"The text of version {number} was not kept: send its messages along.", "invalid_value", "messages"
        )
    return kept


def _weigh(
    server: Server,
    sent: Sequence[Message],
    roles: Sequence[Role],
    before: Version,
    after: Version,
    check: Check,
) -> TurnStrengths:
    """The strengths of the turn between two versions.

    Raises:
        ApiError: the messages are not those of the turn, or too long.
        EngineError: nobody waits for them any more.
    """
    answered = after.kind == "turn"
    if answered and sent[-1]["role"] != "assistant":
        raise _not_the_turn(after, "its last message is no answer")
    added = [*new_messages(sent[:-1]), sent[-1]] if answered else list(sent)
    written = server.prompts.written(added, roles)
    length = written[0].shape[1]
    if length > _MOST:
        raise ApiError(400, f"The turn has {length} tokens; up to {_MOST} can be weighed.", "invalid_value", "version")
    state, stored = server.states.unpack(before.state), server.states.unpack(after.state)
    model, tokenizer = server.engine.model, server.engine.tokenizer
    write, reached = write_strengths(model, written, state, check)
    if float(reached.diff(stored).norm()) > _DRIFT * float(stored.diff(state).norm()) + 1e-6:
        raise _not_the_turn(after, "they lead to another memory")
    tokens = encode_chat(tokenizer, added)
    reads = _reads(server, sent, state, check) if answered else {}
    data = []
    for number, message in enumerate(added):
        places = tokens.of([number])[0].nonzero()[:, 0]
        mine = tokens.input_ids[0, places].tolist()
        read_ids, read = reads.get(number, ([], None))
        known = read if read_ids == mine else None  # a template may show a message otherwise where it is written
        items = [
            TokenItem(text=text, write=float(write[places[i]]), read=None if known is None else float(known[i]))
            for i, text in content_tokens(tokenizer, message, mine)
        ]
        data.append(MessageStrengths(role=message["role"], tokens=items))
    return TurnStrengths(version=after.number, data=data)


def _reads(
    server: Server, sent: Sequence[Message], state: MemoryState, check: Check
) -> dict[int, tuple[list[int], Tensor]]:
    """For each message that the turn added, by its number, its tokens as they were read and what each read."""
    asked = list(sent[:-1])
    _, dropped = server.prompts.chat(asked, shorten=True)
    gone = [i for i, m in enumerate(asked[:-1]) if m["role"] != "system"][:dropped]
    visible = [message for i, message in enumerate(sent) if i not in gone]
    earlier = max((i for i, m in enumerate(visible[:-1]) if m["role"] == "assistant"), default=-1)
    numbers = [i for i in range(earlier + 1, len(visible)) if visible[i]["role"] != "system"]
    try:
        tokens = encode_chat(server.engine.tokenizer, visible)
    except ValueError:  # a template that shows these messages so that their tokens cannot be told apart
        return {}
    ids = tokens.input_ids[0]
    read = read_strengths(server.engine.model, ids.tolist(), state, check)
    mine = [tokens.of([i])[0] for i in numbers]
    return {number: (ids[at].tolist(), read[at]) for number, at in enumerate(mine)}


def _not_the_turn(version: Version, why: str) -> ApiError:
    return ApiError(
        400,
        f"These are not the messages that version {version.number} was made of: {why}.",
        "invalid_value",
        "messages",
    )
