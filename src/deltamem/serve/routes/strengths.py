"""``/v1/sessions/{session}/strengths``: which tokens of a turn were written and read, and how strongly."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from torch import Tensor

from deltamem.chat import encode_chat
from deltamem.serve.beside import Check, beside_engine
from deltamem.serve.errors import ApiError
from deltamem.serve.replay import PastTurn, past_turn, visible_messages
from deltamem.serve.routes.common import CallerOf, ServerOf
from deltamem.serve.routes.sessions import Session
from deltamem.serve.schema import AskStrengths
from deltamem.serve.server import Server
from deltamem.serve.strengths import content_tokens, read_strengths, write_strengths

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])
_MOST = 1024


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
        return _weigh(server, past_turn(server, caller, session, body.version, body.messages, body.roles), check)

    weighed = await beside_engine(server, caller, request, weigh)
    server.rates.charge(caller, sum(len(message.tokens) for message in weighed.data))
    return weighed


def _weigh(server: Server, turn: PastTurn, check: Check) -> TurnStrengths:
    """The strengths of a turn.

    Raises:
        ApiError: the messages are not those of the turn, or too long.
        EngineError: nobody waits for them any more.
    """
    if turn.length > _MOST:
        raise ApiError(
            400, f"The turn has {turn.length} tokens; up to {_MOST} can be weighed.", "invalid_value", "version"
        )
    model, tokenizer = server.engine.model, server.engine.tokenizer
    write, reached = write_strengths(model, turn.written, turn.before, check)
    turn.check(reached)
    tokens = encode_chat(tokenizer, turn.added)
    reads = _reads(server, turn, check) if turn.answered else {}
    data = []
    for number, message in enumerate(turn.added):
        places = tokens.of([number])[0].nonzero()[:, 0]
        mine = tokens.input_ids[0, places].tolist()
        read_ids, read = reads.get(number, ([], None))
        known = read if read_ids == mine else None  # a template may show a message otherwise where it is written
        items = [
            TokenItem(text=text, write=float(write[places[i]]), read=None if known is None else float(known[i]))
            for i, text in content_tokens(tokenizer, message, mine)
        ]
        data.append(MessageStrengths(role=message["role"], tokens=items))
    return TurnStrengths(version=turn.version, data=data)


def _reads(server: Server, turn: PastTurn, check: Check) -> dict[int, tuple[list[int], Tensor]]:
    """For each message that the turn added, by its number, its tokens as they were read and what each read."""
    visible = visible_messages(server.prompts, turn.sent)
    earlier = max((i for i, m in enumerate(visible[:-1]) if m["role"] == "assistant"), default=-1)
    numbers = [i for i in range(earlier + 1, len(visible)) if visible[i]["role"] != "system"]
    try:
        tokens = encode_chat(server.engine.tokenizer, visible)
    except ValueError:  # a template that shows these messages so that their tokens cannot be told apart
        return {}
    ids = tokens.input_ids[0]
    read = read_strengths(server.engine.model, ids.tolist(), turn.before, check)
    mine = [tokens.of([i])[0] for i in numbers]
    return {number: (ids[at].tolist(), read[at]) for number, at in enumerate(mine)}
