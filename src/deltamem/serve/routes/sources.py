"""``/v1/sessions/{session}/sources``: which tokens of past turns an answer read from memory."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from torch import Tensor

from deltamem.attribution import write_shares
from deltamem.chat import encode_chat
from deltamem.observe import observe
from deltamem.serve.beside import Check, beside_engine
from deltamem.serve.errors import ApiError
from deltamem.serve.replay import PastTurn, past_turn, visible_messages
from deltamem.serve.routes.common import CallerOf, ServerOf
from deltamem.serve.routes.sessions import Session
from deltamem.serve.schema import AskSources
from deltamem.serve.server import Server
from deltamem.serve.sources import answer_probe
from deltamem.serve.strengths import content_tokens

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])
_MOST = 4096


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


@router.post("/{session}/sources", summary="Which tokens of past turns an answer read from memory")
async def sources(
    session: Session, body: AskSources, request: Request, server: ServerOf, caller: CallerOf
) -> AnswerSources:
    """Goes through the turns again, and shares out what the answer read over the tokens that wrote it.

    Of the past turns the latest are taken that have 4096 tokens together with the answer's; the rest is ``before``.
    Nothing is changed. The server needs the versions before and after each turn, and the texts: kept by it, or sent
    along.
    """

    def trace(check: Check) -> tuple[AnswerSources, int]:
        answer = past_turn(server, caller, session, body.version, body.messages, body.roles)
        if not answer.answered:
            raise ApiError(400, f"Version {answer.version} holds no answer.", "invalid_value", "version")
        length = answer.length
        past: list[PastTurn] = []
        for item in reversed(body.past):
            check()
            turn = past_turn(server, caller, item.session or session, item.version, item.messages, body.roles)
            if length + turn.length > _MOST:
                break
            length += turn.length
            past.insert(0, turn)
        return _trace(server, answer, past, check), length

    traced, length = await beside_engine(server, caller, request, trace)
    server.rates.charge(caller, length)
    return traced


def _trace(server: Server, answer: PastTurn, past: Sequence[PastTurn], check: Check) -> AnswerSources:
    """What the answer read, by its sources in the past turns.

    Raises:
        ApiError: the turns did not follow one another, or are not made of their messages.
        EngineError: nobody waits for it any more.
    """
    model, tokenizer = server.engine.model, server.engine.tokenizer
    for turn, following in pairwise((*past, answer)):
        if turn.after.diff(following.before).any():
            raise ApiError(
                400,
                f"Version {following.version} did not begin with the memory that version {turn.version} left.",
                "invalid_value",
                "past",
            )
    ids, segments, write = answer.written
    answer.check(observe(model, ids, answer.before, segment_ids=segments, write=write))
    try:
        probe = answer_probe(model, tokenizer, visible_messages(server.prompts, answer.sent), answer.before)
    except ValueError as error:
        raise ApiError(400, f"The answer's tokens cannot be found: {error}", "invalid_value", "messages") from None
    read = probe.of(answer.before)
    data: list[SourceTurn] = []
    for turn in reversed(past):
        check()
        ids, segments, write = turn.written
        shares = write_shares(model, ids, turn.before, probe, segment_ids=segments, write=write)
        turn.check(shares.state)
        data.insert(0, _source(tokenizer, turn, shares.tokens))
        probe = shares.probe
    begun = past[0].before if past else answer.before
    return AnswerSources(version=answer.version, read=read, before=probe.of(begun), data=data)


def _source(tokenizer: object, turn: PastTurn, shares: Tensor) -> SourceTurn:
    encoded = encode_chat(tokenizer, turn.added)
    messages = []
    for number, message in enumerate(turn.added):
        places = encoded.of([number])[0].nonzero()[:, 0]
        mine = shares[places]
        shown = content_tokens(tokenizer, message, encoded.input_ids[0, places].tolist())
        tokens = [SourceToken(text=text, read=float(mine[i])) for i, text in shown]
        messages.append(SourceMessage(role=message["role"], read=float(mine.sum()), tokens=tokens))
    return SourceTurn(session=turn.session, version=turn.version, messages=messages)
