"""``/v1/memories``: the verbs add, search, get_all, get, update, delete and history, over sessions."""

import asyncio
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel

from deltamem.serve.access import Caller
from deltamem.serve.bridge import unless_disconnected
from deltamem.serve.errors import invalid
from deltamem.serve.lookback import beside_engine
from deltamem.serve.memories import (
    Memory,
    all_memories,
    check_kept,
    find,
    new_messages,
    search,
    session_of,
    sessions_of,
    taken_out,
    whose_of,
    with_text,
)
from deltamem.serve.recalling import recall, rewrite
from deltamem.serve.routes.common import AskerOf, CallerOf, ServerOf
from deltamem.serve.schema.body import Role
from deltamem.serve.schema.completions import MemoryOptions
from deltamem.serve.schema.memories import AddMemories, Id, SearchMemories, UpdateMemory, Whose
from deltamem.serve.schema.sessions import AskRecall
from deltamem.serve.server import Server
from deltamem.serve.turns import open_turn
from deltamem.store import FingerprintError, NotFoundError

router = APIRouter(prefix="/v1/memories", tags=["memories"])
MemoryId = Annotated[
    str, Path(alias="id", pattern=r"^[A-Za-z0-9._:-]{1,160}$", description="As add and search give it.")
]
_ROLES: list[Role] = ["user", "assistant", "tool"]
_MOST_ASKED = 8  # sessions whose states a search asks


async def _whose(user_id: Id | None = None, agent_id: Id | None = None, run_id: Id | None = None) -> Whose:
    try:
        return Whose(user_id=user_id, agent_id=agent_id, run_id=run_id)
    except ValueError:
        raise invalid("Say whose memories: user_id, agent_id or run_id.", "user_id") from None


WhoseOf = Annotated[Whose, Depends(_whose)]


class MemoryItem(BaseModel):
    """A text that is remembered; ``memory`` is the text."""

    id: str
    memory: str
    role: str
    session: str
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    score: float | None = None


class MemoryList(BaseModel):
    """Memories."""

    object: Literal["list"] = "list"
    results: list[MemoryItem]


class StateAnswer(BaseModel):
    """What a session's state says to a query by itself, and how sure that is."""

    session: str
    answer: str
    known: bool
    confidence: float


class Found(MemoryList):
    """The texts that fit a query, the best first, and what the states say to it."""

    answers: list[StateAnswer]


class Added(BaseModel):
    """A memory that was added."""

    id: str
    memory: str
    role: str
    event: Literal["ADD"] = "ADD"


class AddedList(BaseModel):
    """What was added."""

    session: str
    version: int
    results: list[Added]


class Change(BaseModel):
    """What happened to a memory."""

    memory_id: str
    event: Literal["ADD", "UPDATE"]
    old_memory: str | None
    new_memory: str
    created_at: datetime


class DeletedMemory(BaseModel):
    """A memory that is gone."""

    id: str
    deleted: Literal[True] = True


class DeletedMemories(BaseModel):
    """The sessions that are gone."""

    sessions: list[str]
    deleted: Literal[True] = True


@router.post("", summary="Remember texts of a user, an agent or a run")
async def add(body: AddMemories, request: Request, server: ServerOf, caller: CallerOf) -> AddedList:
    """Writes messages to the session of these ids, as one turn, and keeps their texts.

    Nothing is left out or put in other words: what is told is what is remembered. ``X-Memory-Session: user:ravi`` talks
    to the same memory.
    """
    check_kept(server)
    session = session_of(body)
    plain = body.plain()
    messages = new_messages(plain, body.metadata or {})
    written = await asyncio.to_thread(server.prompts.written, plain, _ROLES)
    options = MemoryOptions(session=session, roles=_ROLES)
    async with open_turn(server, caller, options, server.deadline(request)) as turn:
        report = await unless_disconnected(request, turn.write(written, "observe", messages))
    server.rates.charge(caller, report["written_tokens"])
    added = [
        Added(id=f"{session}.{message['memory']['id']}", memory=message["content"], role=message["role"])
        for message in messages
    ]
    return AddedList(session=session, version=report["version"], results=added)


@router.get("", summary="All memories of a user, an agent or a run")
async def get_all(
    server: ServerOf, caller: CallerOf, whose: WhoseOf, limit: Annotated[int, Query(ge=1, le=10000)] = 100
) -> MemoryList:
    """The latest first: what was added, and what users said in chats of these sessions."""
    found = await asyncio.to_thread(all_memories, server, caller, whose)
    return MemoryList(results=[_item(memory) for memory in found[:limit]])


@router.post("/search", summary="The memories that fit a query, and what the states say to it")
async def search_memories(body: SearchMemories, request: Request, server: ServerOf, caller: AskerOf) -> Found:
    """Exact things come from the texts, ranked by BM25; the gist from the states, asked as recall asks them.

    If the server has a model for embeddings, texts are also ranked by what they mean, and both ranks are fused.
    """
    caller.touch("read", None)
    found, tokens = await asyncio.to_thread(search, server, caller, body, body.query, body.limit, body.vectors)
    server.rates.charge(caller, tokens)
    answers = await _ask(body, request, server, caller) if body.ask and server.engine.computes else []
    return Found(results=[_item(memory) for memory in found], answers=answers)


@router.delete("", summary="Forget a user, an agent or a run")
async def delete_all(request: Request, server: ServerOf, caller: CallerOf, whose: WhoseOf) -> DeletedMemories:
    """Deletes every session that has these ids, whatever others it has."""
    gone: list[str] = []
    while found := await asyncio.to_thread(sessions_of, server, caller, whose):
        for session in found:
            async with server.exclusively(caller.tenant, session, server.deadline(request)):
                try:
                    await asyncio.to_thread(server.store.delete, caller.tenant, session)
                except NotFoundError:  # somebody else was first
                    continue
            gone.append(session)
    return DeletedMemories(sessions=gone)


@router.get("/{id}", summary="A memory")
async def get(wanted: MemoryId, server: ServerOf, caller: CallerOf) -> MemoryItem:
    """A memory by its id."""
    return _item(await asyncio.to_thread(find, server, caller, wanted))


@router.put("/{id}", summary="Give a memory another text")
async def update(
    wanted: MemoryId, body: UpdateMemory, request: Request, server: ServerOf, caller: CallerOf
) -> MemoryItem:
    """Puts a text in the place of another: the state becomes what it would be had it been told so from the beginning.

    The earlier text stays in the memory's history; delete the memory, and add the new text, to be rid of it.
    """
    memory = await asyncio.to_thread(find, server, caller, wanted)
    await rewrite(server, caller, request, memory.session, with_text(memory, body.text, body.metadata), _ROLES)
    server.metrics.writes.labels("update").inc()
    return _item(await asyncio.to_thread(find, server, caller, wanted))


@router.delete("/{id}", summary="Forget a memory")
async def delete(wanted: MemoryId, request: Request, server: ServerOf, caller: CallerOf) -> DeletedMemory:
    """Takes a memory out of the log and the state, which becomes what it would be had it never been told.

    Its history goes with it, and so do the versions since it was told.
    """
    memory = await asyncio.to_thread(find, server, caller, wanted)
    await rewrite(server, caller, request, memory.session, taken_out(memory), _ROLES)
    server.metrics.writes.labels("forget").inc()
    return DeletedMemory(id=wanted)


@router.get("/{id}/history", summary="What became of a memory")
async def history(wanted: MemoryId, server: ServerOf, caller: CallerOf) -> list[Change]:
    """Its texts, the first first. A memory that was deleted has none."""
    memory = await asyncio.to_thread(find, server, caller, wanted)
    moments = [memory.stored.created, *(datetime.fromisoformat(one["until"]) for one in memory.earlier)]
    texts = [*(str(one["text"]) for one in memory.earlier), memory.text]
    return [
        Change(
            memory_id=memory.id,
            event="UPDATE" if place else "ADD",
            old_memory=texts[place - 1] if place else None,
            new_memory=text,
            created_at=moments[place],
        )
        for place, text in enumerate(texts)
    ]


async def _ask(body: SearchMemories, request: Request, server: Server, caller: Caller) -> list[StateAnswer]:
    asked = AskRecall(questions=[body.query], sources=False)
    answers: list[StateAnswer] = []
    for session in (await asyncio.to_thread(sessions_of, server, caller, body))[:_MOST_ASKED]:
        try:
            ask = partial(recall, server, caller, session, asked)
            _, (one,), _ = await beside_engine(server, caller, request, ask)
        except (NotFoundError, FingerprintError):  # deleted meanwhile, or written by another adapter
            continue
        server.rates.charge(caller, one.evidence.tokens)
        answers.append(StateAnswer(session=session, answer=one.answer, known=one.known, confidence=one.confidence))
    return answers


def _item(memory: Memory) -> MemoryItem:
    whose = whose_of(memory.session)
    updated = memory.earlier[-1]["until"] if memory.earlier else None
    return MemoryItem(
        id=memory.id,
        memory=memory.text,
        role=memory.stored.message["role"],
        session=memory.session,
        user_id=whose["user"],
        agent_id=whose["agent"],
        run_id=whose["run"],
        metadata=dict(memory.metadata),
        created_at=memory.stored.created,
        updated_at=memory.stored.created if updated is None else datetime.fromisoformat(updated),
        score=memory.score,
    )
