"""What a session's memory knows, which turns it knows that from, and a past without some of them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from starlette.requests import Request

from deltamem.attribution import Check
from deltamem.chat import Message
from deltamem.observe import observe
from deltamem.recall import Recollection, WrittenTurn, calibration_of, questions_of, recollect
from deltamem.recall.sources import MOST_TRACED, says
from deltamem.serve.access import Caller
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.lookback import DRIFT, beside_engine
from deltamem.serve.schema.body import Role
from deltamem.serve.schema.sessions import AskRecall, ForgetFact
from deltamem.serve.server import Server
from deltamem.state import MemoryState
from deltamem.store import Rewritten, StoredMessage, Version, VersionInfo

_LOG = 10_000  # the most messages that are gone through
_MOST_REPLAYED = 1_000_000  # the most characters that are written again to take some out


@dataclass(frozen=True)
class LoggedTurn:
    """A turn whose text the server kept.

    Attributes:
        version: the one that it made.
        parent: the version that it was written to; ``None`` where that is no longer kept.
        written: what was written, and to which memory.
    """

    version: int
    kind: str
    created: datetime
    parent: int | None
    written: WrittenTurn


Change = Callable[[LoggedTurn], Sequence[Message]]
"""What a turn is to have said: its own messages, others, or none if it is to be gone."""


def recall(
    server: Server, caller: Caller, session: str, body: AskRecall, check: Check
) -> tuple[Version, list[Recollection], list[LoggedTurn]]:
    """Asks a session's memory.

    Returns:
        the version that was asked, what it said, and the turns that the sources' numbers mean.

    Raises:
        ApiError: a question is too long.
        StoreError: the version cannot be had.
    """
    head = server.store.load(caller.tenant, session, body.version, expect=server.states.fingerprint)
    state = server.states.unpack(head.state)
    turns = logged_turns(server, caller, session, head, body.roles, check) if body.sources else []
    try:
        found = recollect(
            server.interview,
            calibration_of(server.engine.model),
            questions_of(body.questions),
            state,
            threshold=body.threshold,
            turns=[turn.written for turn in turns],
            check=check,
        )
    except ValueError as error:
        raise invalid(str(error), "questions") from None
    return head, found, turns


def logged_turns(
    server: Server,
    caller: Caller,
    session: str,
    head: Version,
    roles: Sequence[Role],
    check: Check,
    most: int = 8 * MOST_TRACED,
) -> list[LoggedTurn]:
    """The turns that led to a version, as far back as their text and the memory before them are known.

    Where the memory before the first messages is no longer kept, they are written again from an empty one, if they
    have at most ``most`` characters; if that leads to the memory that followed them, they are all of the past.
    """
    infos = {one.number: one for one in server.store.versions(caller.tenant, session, limit=_LOG)}
    log = server.store.messages(caller.tenant, session, version=head.number, limit=_LOG)
    groups = _groups(log, infos)
    known: list[LoggedTurn] = []
    while groups:
        version, said = groups[-1]
        info = infos.get(version)
        if info is None or info.parent not in infos or info.kind not in ("turn", "observe"):
            break
        before = server.store.load(caller.tenant, session, info.parent, expect=server.states.fingerprint)
        known.insert(0, _turn(server, said, info.kind, version, info.parent, server.states.unpack(before.state), roles))
        groups.pop()
    if not groups or sum(len(m.message["content"]) for _, said in groups for m in said) > most:
        return known
    first: list[LoggedTurn] = []
    state = server.engine.new_state()
    for version, said in groups:
        check()
        turn = _turn(server, said, "turn" if len(said) > 1 else "observe", version, None, state, roles)
        first.append(turn)
        state = written_again(server, turn, state)
    after = known[0].written.before if known else server.states.unpack(head.state)
    return [*first, *known] if _same(state, after) else known


async def rewrite(
    server: Server, caller: Caller, request: Request, session: str, change: Change, roles: Sequence[Role]
) -> int:
    """Changes turns of a session, for good, and gives their number.

    Args:
        server: whose store it is in.
        caller: whose session it is.
        request: who waits for it.
        session: which.
        change: what its turns are to have said.
        roles: whose messages were written.

    Raises:
        ApiError: no turn is to change, or what came after cannot be written again.
        StoreError: the session cannot be written.
    """
    async with server.exclusively(caller.tenant, session, server.deadline(request)):
        fingerprint = server.states.fingerprint
        head = await asyncio.to_thread(server.store.load, caller.tenant, session, expect=fingerprint, writable=True)
        count, base, turns = await beside_engine(
            server, caller, request, lambda check: changed(server, caller, session, head, change, roles, check)
        )
        await asyncio.to_thread(
            server.store.rewrite,
            caller.tenant,
            session,
            parent=head.number,
            base=base,
            turns=turns,
            empty=server.states.pack(server.engine.new_state()),
        )
    return count


def changed(
    server: Server, caller: Caller, session: str, head: Version, change: Change, roles: Sequence[Role], check: Check
) -> tuple[int, int | None, list[Rewritten]]:
    """The past of a session with some of its turns changed, for :meth:`deltamem.store.SessionStore.rewrite`.

    Returns:
        how many turns change, the version that stays, and the turns after it.

    Raises:
        ApiError: no turn is to change, or what came after cannot be written again.
    """
    turns = logged_turns(server, caller, session, head, roles, check, _MOST_REPLAYED)
    said = [change(turn) for turn in turns]
    other = [place for place, turn in enumerate(turns) if said[place] is not turn.written.messages]
    if not other:
        kept = "" if server.store.keep_messages else " This server keeps no messages: give the question and its answer."
        raise ApiError(404, f"No turn that was kept says so; nothing was forgotten.{kept}", "not_found", "text")
    first = turns[other[0]]
    begin = other[0] if first.parent is not None else 0
    state = turns[begin].written.before
    for turn in turns[begin:]:  # what is there now must be what these turns make of it
        check()
        state = written_again(server, turn, state)
    if not _same(state, server.states.unpack(head.state)):
        raise ApiError(
            409,
            "The turns that were kept do not lead to the present memory (something else was written, or other roles "
            "were), so it cannot be rebuilt without one of them. Give the question and its answer instead.",
            "cannot_replay",
        )
    state = turns[begin].written.before
    again: list[Rewritten] = []
    for place, turn in enumerate(turns[begin:], begin):
        if not said[place]:
            continue
        check()
        if place in other:
            try:
                turn = replace(turn, written=_written(server, said[place], state, roles))
            except ValueError as error:
                raise ApiError(409, f"What is left of a turn cannot be written: {error}", "cannot_replay") from None
        state = written_again(server, turn, state)
        again.append(
            Rewritten(turn.kind, server.states.pack(state), int(state.tokens[0]), turn.written.messages, turn.created)
        )
    return len(other), turns[begin].parent, again


def without(fact: ForgetFact) -> Change:
    """The change that takes out the turns that say the text, or all the words, or are named."""
    said = [phrases for phrases in ([fact.text] if fact.text else [], fact.words) if phrases]

    def change(turn: LoggedTurn) -> Sequence[Message]:
        messages = turn.written.messages
        named = turn.version in (fact.versions or ())
        return () if named or any(says(messages, *phrases) for phrases in said) else messages

    return change


def written_again(server: Server, turn: LoggedTurn, state: MemoryState) -> MemoryState:
    """A memory after a turn."""
    ids, segments, write = turn.written.written
    return observe(server.engine.model, ids, state, segment_ids=segments, write=write)


def _groups(log: Sequence[StoredMessage], infos: dict[int, VersionInfo]) -> list[tuple[int, list[StoredMessage]]]:
    """Messages by the turns that they were written in; a fork's log has them all in one version."""
    found: list[tuple[int, list[StoredMessage]]] = []
    for stored in log:
        info = infos.get(stored.version)
        forked = info is not None and info.kind == "fork"
        begins = forked and stored.message["role"] == "user"
        if not found or found[-1][0] != stored.version or begins:
            found.append((stored.version, []))
        found[-1][1].append(stored)
    return found


def _turn(
    server: Server,
    said: Sequence[StoredMessage],
    kind: str,
    version: int,
    parent: int | None,
    before: MemoryState,
    roles: Sequence[Role],
) -> LoggedTurn:
    messages = [dict(stored.message) for stored in said]
    return LoggedTurn(version, kind, said[0].created, parent, _written(server, messages, before, roles))


def _written(server: Server, messages: Sequence[Message], before: MemoryState, roles: Sequence[Role]) -> WrittenTurn:
    """Messages as they were written; whatever else the log has of them stays with them."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    return replace(WrittenTurn.of(server.prompts.source, plain, before, roles), messages=messages)


def _same(reached: MemoryState, wanted: MemoryState) -> bool:
    """Whether two memories are one: batches round differently, and another text leads far away."""
    return float(reached.diff(wanted).norm()) <= DRIFT * float(wanted.norms().norm()) + 1e-6
