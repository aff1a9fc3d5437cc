"""``/v1/sessions/{session}/recall`` and ``/forget``: what a memory knows, and taking things out of it again."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel

from deltamem.attribution import Check
from deltamem.recall import Recollection
from deltamem.serve.access import Caller
from deltamem.serve.errors import invalid
from deltamem.serve.lookback import beside_engine
from deltamem.serve.recalling import LoggedTurn, recall, rewrite, without
from deltamem.serve.routes.common import AskerOf, CallerOf, ServerOf
from deltamem.serve.routes.sessions import Session
from deltamem.serve.routes.views import SessionInfo, info_of
from deltamem.serve.schema.completions import MemoryOptions
from deltamem.serve.schema.sessions import AskRecall, ForgetFact
from deltamem.serve.server import Server
from deltamem.serve.turns import open_turn
from deltamem.state import MemoryState

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


class Weight(BaseModel):
    """What speaks for an answer, in nats: how much likelier it is than with an empty memory, and with strangers'."""

    tokens: int
    over_empty: float
    over_strangers: float


class RecalledToken(BaseModel):
    """A token of a message, and its share of the answer's evidence; below 0 where it speaks for another answer."""

    text: str
    share: float


class RecalledMessage(BaseModel):
    """A message of the turn that an answer came from."""

    role: str
    tokens: list[RecalledToken]


class RecallSource(BaseModel):
    """The turn that wrote most of an answer's evidence."""

    version: int
    created: int
    share: float
    messages: list[RecalledMessage]


class RecallItem(BaseModel):
    """A question, and what the memory said to it; ``words`` are those of the answer that come from the memory."""

    name: str
    question: str
    answer: str
    words: list[str]
    known: bool
    confidence: float
    evidence: Weight
    source: RecallSource | None


class Recalled(BaseModel):
    """What a memory knows. ``calibrated`` says whether confidences were fitted to answers of this adapter."""

    object: Literal["memory.recall"] = "memory.recall"
    session: str
    version: int
    tokens_written: int
    threshold: float
    calibrated: bool
    data: list[RecallItem]


class Forgotten(BaseModel):
    """What was taken out.

    ``turns``: how many turns were left out, 0 where everything was forgotten or the numbers alone were changed.
    ``exact``: the memory is what it would be had they never been written.
    """

    turns: int
    exact: bool


class ForgottenSession(SessionInfo):
    """A session that forgot."""

    forgotten: Forgotten


@router.post("/{session}/recall", summary="What the memory knows, how sure it is, and where it is from")
async def recall_session(
    session: Session,
    request: Request,
    server: ServerOf,
    caller: AskerOf,
    body: Annotated[AskRecall, Body(default_factory=AskRecall)],
) -> Recalled:
    """Puts questions to a memory, and changes nothing.

    Each gets its likeliest answer and a confidence, which follows from how much likelier the memory makes the answer
    than an empty memory does, and than those of strangers. Where it cannot be told from an empty memory, ``known`` is
    false. Where the server keeps messages, ``source`` is the turn that wrote the answer, token by token.
    """
    head, found, turns = await beside_engine(
        server, caller, request, lambda check: recall(server, caller, session, body, check)
    )
    server.rates.charge(caller, sum(one.evidence.tokens for one in found))
    return Recalled(
        session=session,
        version=head.number,
        tokens_written=head.tokens,
        threshold=body.threshold,
        calibrated=found[0].calibrated,
        data=[_item(one, turns) for one in found],
    )


@router.post("/{session}/forget", summary="Forget everything, or one fact")
async def forget(
    session: Session, request: Request, server: ServerOf, caller: CallerOf, body: ForgetFact | None = None
) -> ForgottenSession:
    """Without a body, puts an empty memory in the place of this one, as a new version, whichever adapter wrote it.

    The timeline then keeps what was forgotten as long as it keeps versions.

    With ``text``, ``words`` or ``versions``, on a server that keeps messages, those turns are left out and what came
    after them is written again: the memory is what it would be had they never been, and they are gone from the timeline
    and the log for good. With ``question`` and ``answer`` alone, the memory is changed until the question no longer
    brings the answer out, as a new version; the fact stays in its numbers, for who can read those.
    """
    if body is None:
        options = MemoryOptions(session=session, must_exist=True, fresh=True)
        async with open_turn(server, caller, options, server.deadline(request)) as turn:
            await turn.commit(server.engine.new_state(), "forget")
        done = Forgotten(turns=0, exact=True)
    elif body.replayed:
        turns = await rewrite(server, caller, request, session, without(body), body.roles)
        done = Forgotten(turns=turns, exact=True)
        server.metrics.writes.labels("forget").inc()
    else:
        done = await _erase(session, body, request, server, caller)
    record = await asyncio.to_thread(server.store.get, caller.tenant, session)
    return ForgottenSession(**info_of(record).model_dump(), forgotten=done)


async def _erase(session: str, body: ForgetFact, request: Request, server: Server, caller: Caller) -> Forgotten:
    options = MemoryOptions(session=session, must_exist=True)
    async with open_turn(server, caller, options, server.deadline(request)) as turn:

        def work(check: Check) -> MemoryState:
            state = turn.state if turn.state is not None else server.engine.new_state()
            try:
                return server.interview.erase(str(body.question), str(body.answer), state, check=check)
            except ValueError as error:
                raise invalid(str(error), "question") from None

        await turn.commit(await beside_engine(server, caller, request, work), "erase")
    return Forgotten(turns=0, exact=False)


def _item(one: Recollection, turns: list[LoggedTurn]) -> RecallItem:
    source = None
    if one.source is not None:
        turn = turns[one.source.turn]
        source = RecallSource(
            version=turn.version,
            created=int(turn.created.timestamp()),
            share=one.source.share,
            messages=[
                RecalledMessage(
                    role=message.role,
                    tokens=[RecalledToken(text=text, share=share) for text, share in message.tokens],
                )
                for message in one.source.messages
            ],
        )
    return RecallItem(
        name=one.name,
        question=one.question,
        answer=one.answer,
        words=list(one.words),
        known=one.known,
        confidence=one.confidence,
        evidence=Weight.model_validate(one.evidence, from_attributes=True),
        source=source,
    )
