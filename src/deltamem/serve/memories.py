"""Memories one by one: the kept messages of the sessions of users, agents and runs, found by their words.

A session's name says whose it is (``user:ravi:run:7``), and a memory's id which session it is in, so there is no index
beside the log: what is searched is the log itself, encrypted or not, and what is deleted is nowhere else.
"""

import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np

from deltamem.chat import Message
from deltamem.serve.access import Caller
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.recalling import Change, LoggedTurn
from deltamem.serve.schema.memories import Whose
from deltamem.serve.server import Server
from deltamem.session.retrieval import words
from deltamem.store import NotFoundError, StoredMessage

KINDS = ("user", "agent", "run")
MOST_SESSIONS = 100
_LOG = 10_000  # the most messages of a session that are gone through
_FUSED = 50  # the best of each ranking that count where there are two
_ENCODED = 256  # texts that are encoded together, and then kept
_KIND = 8  # the bytes before a vector that say which encoder made it
_KEY = "memory"  # what a message of the log has beside role and content


@dataclass(frozen=True)
class Memory:
    """A text that is remembered.

    Attributes:
        id: the session and the memory's number there.
        session: which session.
        stored: as the log has it.
        score: how well it fits a search.
    """

    id: str
    session: str
    stored: StoredMessage
    score: float | None = None

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.stored.message["content"])

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was kept with it."""
        found: Mapping[str, Any] = self.stored.message.get(_KEY, {}).get("metadata", {})
        return found

    @property
    def earlier(self) -> Sequence[Mapping[str, Any]]:
        """The texts that it had before, each with ``text`` and ``until``, the oldest first."""
        found: Sequence[Mapping[str, Any]] = self.stored.message.get(_KEY, {}).get("earlier", ())
        return found


def session_of(whose: Whose) -> str:
    """The name of the session of a user, an agent and a run.

    Raises:
        ApiError: the ids are too long together.
    """
    name = ":".join(f"{kind}:{one}" for kind, one in _given(whose).items())
    if len(name) > 128:
        raise invalid("The ids are too long together: a session's name has up to 128 characters.")
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


def all_memories(server: Server, caller: Caller, whose: Whose) -> list[Memory]:
    """The memories of a user, an agent or a run, the latest first.

    Raises:
        ApiError: this server keeps no messages.
    """
    check_kept(server)
    return _in_sessions(server, caller, sessions_of(server, caller, whose))


def _in_session(server: Server, caller: Caller, session: str) -> list[Memory]:
    """The memories in a session's log: what was added, and what users said. None if there is no such session."""
    try:
        log = server.store.messages(caller.tenant, session, limit=_LOG)
    except NotFoundError:
        return []
    return [_memory(session, stored) for stored in log if _is_memory(stored.message)]


def _in_sessions(server: Server, caller: Caller, sessions: Sequence[str]) -> list[Memory]:
    found = [memory for session in sessions for memory in reversed(_in_session(server, caller, session))]
    return sorted(found, key=lambda memory: memory.stored.created, reverse=True)


def find(server: Server, caller: Caller, wanted: str) -> Memory:
    """A memory by its id.

    Raises:
        ApiError: there is none, or this server keeps no messages.
    """
    check_kept(server)
    session = wanted.rpartition(".")[0]
    for memory in _in_session(server, caller, session) if session else ():
        if memory.id == wanted:
            return memory
    raise ApiError(404, f"There is no memory {wanted!r}; it may have been deleted.", "not_found", "id")


def search(
    server: Server, caller: Caller, whose: Whose, query: str, limit: int, by_vectors: bool | None = None
) -> tuple[list[Memory], int]:
    """The memories that fit a query, the best first, and how many tokens an encoder read, if vectors count.

    By words they are ranked by BM25: in PostgreSQL where texts lie there in plain text, else by SQLite's FTS5 in this
    process. With an encoder, and unless ``by_vectors`` is false, they are ranked by their vectors' cosine too, and both
    ranks are fused.

    Raises:
        ApiError: this server keeps no messages, or vectors are to count and it has no encoder.
    """
    check_kept(server)
    if by_vectors is None:
        by_vectors = server.encoder is not None
    elif by_vectors:
        server.needs_encoder()
    sessions = sessions_of(server, caller, whose)
    terms = " ".join(dict.fromkeys(words(query)))
    most = max(limit, _FUSED) if by_vectors else limit
    hits = server.store.search(caller.tenant, sessions, terms, told=_words_of, limit=most, most=_LOG)
    memories = _in_sessions(server, caller, sessions) if hits is None or by_vectors else []
    if hits is None:
        found = ranked_by_words(memories, terms, most)
    else:
        found = [replace(_memory(session, stored), score=score) for session, stored, score in hits]
    if not by_vectors:
        return found, 0
    nearest, tokens = ranked_by_vectors(server, caller, memories, query, most)
    return _fused([found, nearest])[:limit], tokens


def ranked_by_words(memories: Sequence[Memory], terms: str, limit: int) -> list[Memory]:
    """The memories that share the most telling words with a query, by SQLite's BM25 over their stems."""
    if not terms:
        return []
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE VIRTUAL TABLE texts USING fts5(words, tokenize = 'porter unicode61')")
        rows = ((place, _words_of(memory.stored.message)) for place, memory in enumerate(memories))
        database.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", rows)
        ranked = database.execute(
            "SELECT rowid, -rank FROM texts WHERE texts MATCH ? ORDER BY rank, rowid LIMIT ?",
            (" OR ".join(f'"{term}"' for term in terms.split()), limit),
        ).fetchall()
    return [replace(memories[place], score=score) for place, score in ranked]


def ranked_by_vectors(
    server: Server, caller: Caller, memories: Sequence[Memory], query: str, limit: int
) -> tuple[list[Memory], int]:
    """The memories that are nearest to a query in meaning, and how many tokens the encoder read.

    Vectors that are missing are made, and kept in the store.
    """
    encoder = server.needs_encoder()
    kind = sha256(encoder.name.encode()).digest()[:_KIND]
    rows = np.zeros((len(memories), encoder.width), np.float32)
    asked, read = encoder.encode([query])
    for session in dict.fromkeys(memory.session for memory in memories):
        kept = server.store.vectors(caller.tenant, session)
        places = [place for place, memory in enumerate(memories) if memory.session == session]
        lacking = []
        for place in places:
            held = kept.get(memories[place].stored.position, b"")
            if held.startswith(kind):
                rows[place] = np.frombuffer(held[_KIND:], np.float16)
            else:
                lacking.append(place)
        for begin in range(0, len(lacking), _ENCODED):
            some = lacking[begin : begin + _ENCODED]
            rows[some], tokens = encoder.encode([memories[place].text for place in some])
            read += tokens
            made = [(memories[place].stored, kind + rows[place].astype(np.float16).tobytes()) for place in some]
            server.store.keep_vectors(caller.tenant, session, made)
    likeness = rows @ asked[0]
    nearest = np.argsort(-likeness, kind="stable")[:limit]
    return [replace(memories[place], score=float(likeness[place])) for place in nearest], read


def _fused(rankings: Sequence[Sequence[Memory]]) -> list[Memory]:
    """Rankings as one: each adds the inverse of a memory's rank, from sixty on (reciprocal rank fusion)."""
    scores: dict[str, float] = {}
    known: dict[str, Memory] = {}
    for ranking in rankings:
        for rank, memory in enumerate(ranking, 1):
            known.setdefault(memory.id, memory)
            scores[memory.id] = scores.get(memory.id, 0.0) + 1 / (60 + rank)
    return [replace(known[one], score=scores[one]) for one in sorted(scores, key=lambda one: -scores[one])]


def with_text(memory: Memory, text: str, metadata: Mapping[str, Any] | None) -> Change:
    """The change that gives a memory another text, which keeps its id and its earlier texts."""
    kept = dict(memory.stored.message.get(_KEY, {}))
    kept["id"] = memory.id.rpartition(".")[2]
    kept["earlier"] = [*memory.earlier, {"text": memory.text, "until": datetime.now(UTC).isoformat()}]
    if metadata is not None:
        kept["metadata"] = dict(metadata)
    return _changed(memory, {**memory.stored.message, "content": text, _KEY: kept})


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
        place = next((place for place, one in enumerate(said) if one == memory.stored.message), None)
        if place is None or turn.created != memory.stored.created:
            return said
        return [*said[:place], *([message] if message is not None else []), *said[place + 1 :]]

    return change


def _is_memory(message: Mapping[str, Any]) -> bool:
    return _KEY in message or message["role"] == "user"


def _words_of(message: Mapping[str, Any]) -> str:
    """What a message is found by."""
    return " ".join(words(str(message["content"]))) if _is_memory(message) else ""


def _memory(session: str, stored: StoredMessage) -> Memory:
    return Memory(f"{session}.{_number(stored)}", session, stored)


def _number(stored: StoredMessage) -> str:
    """Of an added memory its own, of another message its place in the log."""
    return str(stored.message.get(_KEY, {}).get("id", stored.position))


def _given(whose: Whose) -> dict[str, str]:
    return {kind: one for kind in KINDS if (one := getattr(whose, f"{kind}_id")) is not None}
