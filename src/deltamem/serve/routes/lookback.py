"""``/v1/sessions/{session}/strengths`` and ``/sources``: what was written and read, and where an answer came from."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from deltamem.attribution import Check
from deltamem.recall.sources import MOST_TRACED
from deltamem.serve.errors import invalid
from deltamem.serve.lookback import PastTurn, SeenMessage, beside_engine, past_turn, trace, weigh
from deltamem.serve.routes.common import AskerOf, ServerOf
from deltamem.serve.routes.sessions import Session
from deltamem.serve.schema.sessions import AskSources, AskStrengths

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


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


class SourceToken(BaseModel):
    """A token of a message's content, and its share of what was read; below 0 where it lessened that."""

    text: str
    read: float


class SourceMessage(BaseModel):
    """A message; its share is that of all its tokens, those too that the chat template puts around its content."""

    role: str
    read: float
    tokens: list[SourceToken]


class SourceTurn(BaseModel):
    """A past turn."""

    session: str
    version: int
    messages: list[SourceMessage]


class AnswerSources(BaseModel):
    """Where what an answer read came from.

    ``read`` is the sum, over the answer's tokens, of the norm of all that was read where the token was chosen. It is
    ``before``, the share of the memory that the first turn of ``data`` began with, and the shares of the messages.
    """

    object: Literal["memory.sources"] = "memory.sources"
    version: int
    read: float
    before: float
    data: list[SourceTurn]


@router.post("/{session}/strengths", summary="How strongly a turn's tokens were written and read")
async def strengths(
    session: Session, body: AskStrengths, request: Request, server: ServerOf, caller: AskerOf
) -> TurnStrengths:
    """Goes through a turn again, on the memory that it began with, and weighs each token.

    Nothing is changed. The server needs both versions, and the text: kept by it, or sent along.
    """

    def look(check: Check) -> list[SeenMessage]:
        return weigh(server, past_turn(server, caller, session, body.version, body.messages, body.roles), check)

    seen = await beside_engine(server, caller, request, look)
    server.rates.charge(caller, sum(len(message.tokens) for message in seen))
    data = [MessageStrengths.model_validate(message, from_attributes=True) for message in seen]
    return TurnStrengths(version=body.version, data=data)


@router.post("/{session}/sources", summary="Which tokens of past turns an answer read from memory")
async def sources(
    session: Session, body: AskSources, request: Request, server: ServerOf, caller: AskerOf
) -> AnswerSources:
    """Goes through the turns again, and shares out what the answer read over the tokens that wrote it.

    Of the past turns the latest are taken that have 4096 tokens together with the answer's; the rest is ``before``.
    Nothing is changed. The server needs the versions before and after each turn, and the texts: kept by it, or sent
    along.
    """

    def look(check: Check) -> tuple[AnswerSources, int]:
        answer = past_turn(server, caller, session, body.version, body.messages, body.roles)
        if not answer.answered:
            raise invalid(f"Version {answer.version} holds no answer.", "version")
        length = answer.length
        past: list[PastTurn] = []
        for item in reversed(body.past):
            check()
            turn = past_turn(server, caller, item.session or session, item.version, item.messages, body.roles)
            if length + turn.length > MOST_TRACED:
                break
            length += turn.length
            past.insert(0, turn)
        found = trace(server, answer, past, check)
        data = [_source(turn, seen) for turn, seen in zip(past, found.turns, strict=True)]
        return AnswerSources(version=answer.version, read=found.read, before=found.before, data=data), length

    traced, length = await beside_engine(server, caller, request, look)
    server.rates.charge(caller, length)
    return traced


def _source(turn: PastTurn, seen: list[SeenMessage]) -> SourceTurn:
    messages = [
        SourceMessage(
            role=message.role,
            read=message.share,
            tokens=[SourceToken(text=token.text, read=token.write) for token in message.tokens],
        )
        for message in seen
    ]
    return SourceTurn(session=turn.session, version=turn.version, messages=messages)
