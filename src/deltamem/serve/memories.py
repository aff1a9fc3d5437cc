"""Memories one by one: the kept messages of the sessions of users, agents and runs, found by their words.

A session's name says whose it is (``user:ravi:run:7``), and a memory's id which session it is in, so there is no index
beside the log: what is searched is the log itself, encrypted or not, and what is deleted is nowhere else.
"""

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from deltamem.chat import Message
from deltamem.serve.access import Caller
from deltamem.serve.errors import ApiError
from deltamem.serve.recalling import LoggedTurn
from deltamem.serve.schema import Whose
from deltamem.serve.server import Server
from deltamem.session.retrieval import words
from deltamem.store import NotFoundError, StoredMessage

KINDS = ("user", "agent", "run")
MOST_SESSIONS = 100
_LOG = 10_000  # the most messages of a session that are gone through
Change = Callable[[LoggedTurn], Sequence[Message]]
_KEY = "memory"  # what a message of the log has beside role and content


@dataclass(frozen=True)
class Memory:
    """A text that is remembered.

    Attributes:
        id: the session and the memory's number there.
        session: which session.
        message: as the log has it.
        created: when it was told.
        score: how well it fits a search.
    """

    id: str
    session: str
    message: Mapping[str, Any]
    created: datetime
    score: float | None = None

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.message["content"])

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was kept with it."""
        found: Mapping[str, Any] = self.message.get(_KEY, {}).get("metadata", {})
        return found

    @property
    def earlier(self) -> Sequence[Mapping[str, Any]]:
        """The texts that it had before, each with ``text`` and ``until``, the oldest first."""
        found: Sequence[Mapping[str, Any]] = self.message.get(_KEY, {}).get("earlier", ())
        return found


def session_of(whose: Whose) -> str:
    """The name of the session of a user, an agent and a run.

    Raises:
        ApiError: the ids are too long together.
    """
    name = ":".join(f"{kind}:{one}" for kind, one in _given(whose).items())
    if len(name) > 128:
        raise ApiError(400, "The ids have too many characters together: a session's name has 128.", "invalid_value")
    return name


def whose_of(session: str) -> dict[str, str | None]:
    """The user, agent and run that a session's name says."""
    parts = session.split(":")
    pairs = dict(zip(parts[::2], parts[1::2], strict=False))
    return {kind: pairs.get(kind) for kind in KINDS}


def sessions_of(server: Server, caller: Caller, whose: Whose) -> list[str]:
    """The sessions of a user, an agent or a run, with whatever other ids, the latest first."""
    given = _given(whose)
    kind, one = next(iter(given.items()))
    found: list[str] = []
    after = None
    while len(found) < MOST_SESSIONS:
        page = server.store.list(caller.tenant, search=f"{kind}:{one}", limit=MOST_SESSIONS, after=after)
        names = [record.session for record in page.sessions]
        found += [name for name in names if given.items() <= whose_of(name).items()]
        after = page.after
        if after is None:
            break
    return found[:MOST_SESSIONS]


def new_messages(messages: Sequence[Message], metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages as the log is to have them, each a memory with a number of its own."""
    kept = {"metadata": dict(metadata)} if metadata else {}
    return [{**message, _KEY: {"id": f"m{secrets.token_hex(6)}", **kept}} for message in messages]


def memories_of(session: str, log: Sequence[StoredMessage]) -> list[Memory]:
    """The memories in a log: what was added, and what users said."""
    return [
        Memory(f"{session}.{_number(stored)}", session, stored.message, stored.created)
        for stored in log
        if _KEY in stored.message or stored.message["role"] == "user"
    ]


def all_memories(server: Server, caller: Caller, whose: Whose) -> list[Memory]:
    """The memories of a user, an agent or a run, the latest first.

    Raises:
        ApiError: this server keeps no messages.
    """
    check_kept(server)
    found: list[Memory] = []
    for session in sessions_of(server, caller, whose):
        try:
            log = server.store.messages(caller.tenant, session, limit=_LOG)
        except NotFoundError:  # deleted meanwhile
            continue
        found += reversed(memories_of(session, log))
    return sorted(found, key=lambda memory: memory.created, reverse=True)


def find(server: Server, caller: Caller, wanted: str) -> Memory:
    """A memory by its id.

    Raises:
        ApiError: there is none, or this server keeps no messages.
    """
    check_kept(server)
    session, _, number = wanted.rpartition(".")
    try:
        log = server.store.messages(caller.tenant, session, limit=_LOG) if session else ()
    except NotFoundError:
        log = ()
    found = [memory for memory in memories_of(session, log) if memory.id == wanted] if number else []
    if not found:
        raise ApiError(404, f"There is no memory {wanted!r}; it may have been deleted.", "not_found", "id")
    return found[0]


def search(memories: Sequence[Memory], query: str, limit: int) -> list[Memory]:
    """The memories that share the most telling words with a query, by SQLite's BM25 over their stems."""
    terms = dict.fromkeys(words(query))
    if not terms:
        return []
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE VIRTUAL TABLE texts USING fts5(words, tokenize = 'porter unicode61')")
        rows = ((place, " ".join(words(memory.text))) for place, memory in enumerate(memories))
        database.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", rows)
        ranked = database.execute(
            "SELECT rowid, -rank FROM texts WHERE texts MATCH ? ORDER BY rank, rowid LIMIT ?",
            (" OR ".join(f'"{term}"' for term in terms), limit),
        ).fetchall()
    return [replace(memories[place], score=score) for place, score in ranked]


def with_text(memory: Memory, text: str, metadata: Mapping[str, Any] | None) -> Change:
    """The change that gives a memory another text, which keeps its id and its earlier texts."""
    kept = dict(memory.message.get(_KEY, {}))
    kept["id"] = memory.id.rpartition(".")[2]
    kept["earlier"] = [*memory.earlier, {"text": memory.text, "until": datetime.now(UTC).isoformat()}]
    if metadata is not None:
        kept["metadata"] = dict(metadata)
    return _changed(memory, {**memory.message, "content": text, _KEY: kept})


def taken_out(memory: Memory) -> Change:
    """The change that takes a memory out, and its earlier texts with it."""
    return _changed(memory, None)


def check_kept(server: Server) -> None:
    """Refuses where the server keeps no messages.

    Raises:
        ApiError: it does not.
    """
    if not server.store.keep_messages:
        raise ApiError(
            409, "Memories one by one need their texts: start the server with --keep-messages.", "messages_not_kept"
        )


def _changed(memory: Memory, message: Mapping[str, Any] | None) -> Change:
    def change(turn: LoggedTurn) -> Sequence[Message]:
        said = turn.written.messages
        place = next((place for place, one in enumerate(said) if one == memory.message), None)
        if place is None or turn.created != memory.created:
            return said
        return [*said[:place], *([message] if message is not None else []), *said[place + 1 :]]

    return change


def _number(stored: StoredMessage) -> str:
    """Of an added memory its own, of another message its place in the log."""
    return str(stored.message.get(_KEY, {}).get("id", stored.position))


def _given(whose: Whose) -> dict[str, str]:
    return {kind: one for kind in KINDS if (one := getattr(whose, f"{kind}_id")) is not None}
