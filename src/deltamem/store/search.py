"""What searches need of a log beside its text: words for PostgreSQL's full text, and vectors.

Both are made when a search first needs them, and go with their message. Words are kept only where messages are plain
text too; vectors are encrypted as messages are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, or_, select, text

from deltamem.store.database import Database
from deltamem.store.encryption import StateKeys, row_context, seal, unseal
from deltamem.store.errors import NotFoundError
from deltamem.store.lookup import find, place_of
from deltamem.store.messages import as_message
from deltamem.store.records import StoredMessage
from deltamem.store.schema import Place, Timestamp, message_vectors, message_words, messages
from deltamem.store.versions import read_end

Told = Callable[[Mapping[str, Any]], str]
_LONGEST = 200_000  # characters of a text that count; PostgreSQL takes a megabyte of words
_AT_ONCE = 1000


class Part(NamedTuple):
    """Neighbouring messages of a log, from the first position to the last."""

    session: str
    first: int
    last: int


def find_by_words(
    database: Database, tenant: str, sessions: Sequence[str], words: str, *, told: Told, limit: int, most: int
) -> list[tuple[str, StoredMessage, float]]:
    """The messages of some sessions' logs that BM25 ranks highest, the best first, in a store without keys.

    The arguments are those of :meth:`SessionStore.search`, on PostgreSQL.

    Raises:
        EncryptionError: a message is encrypted.
    """
    while _hold_words(database, tenant, sessions, told, most):
        pass
    with database.read() as connection:
        lexemes = connection.execute(_LEXEMES, {"words": words[:_LONGEST]}).scalar_one()
        if not lexemes:
            return []
        query = " | ".join("'" + one.replace("\\", "\\\\").replace("'", "''") + "'" for one in lexemes)
        parts = _parts(connection, tenant, sessions, most)
        given = _columns(parts) | {"tenant": tenant, "lexemes": lexemes, "query": query, "limit": limit}
        ranked = connection.execute(_RANKED, given).all()
        found = []
        for session, position, score in ranked:
            place = Place(tenant, session)
            row = connection.execute(select(messages).where(place.within(messages), messages.c.position == position))
            found.append((session, as_message(None, place, row.one()), float(score)))
        return found


def kept_vectors(connection: Connection, keys: StateKeys | None, place: Place) -> dict[int, bytes]:
    """The vectors of a session's messages that are kept, by position.

    Raises:
        EncryptionError: one cannot be decrypted.
    """
    wanted = select(message_vectors).where(place.within(message_vectors))
    return {
        row.position: unseal(keys, row.key_id, row.body, row_context(*place, row.position, "vector"))
        for row in connection.execute(wanted)
    }


def keep_vectors(
    database: Database, keys: StateKeys | None, place: Place, made: Sequence[tuple[StoredMessage, bytes]]
) -> None:
    """Keeps the vectors of messages that are still there, instead of those that they had."""
    rows = []
    for stored, vector in made:
        key_id, body = seal(keys, vector, row_context(*place, stored.position, "vector"))
        rows.append(_still_there(place, stored) | {"key_id": key_id, "body": body})
    keep = _KEEP_VECTOR.format(lock="" if database.is_sqlite else "FOR KEY SHARE")
    with database.write() as connection:
        for begin in range(0, len(rows), _AT_ONCE):
            connection.execute(_since(keep), rows[begin : begin + _AT_ONCE])


def drop_words(database: Database) -> None:
    """Deletes the words of all messages, which are plain text where messages no longer are."""
    with database.write() as connection:
        connection.execute(delete(message_words))


def _parts(connection: Connection, tenant: str, sessions: Sequence[str], most: int) -> list[Part]:
    """Where the last messages of logs are, as the sessions' current versions see them."""
    found: list[Part] = []
    for session in sessions:
        try:
            found += _log_parts(connection, place_of(tenant, session), most)
        except NotFoundError:  # deleted meanwhile
            continue
    return found


def _log_parts(connection: Connection, place: Place, most: int) -> list[Part]:
    tail, _ = read_end(connection, place, find(connection, place).head)
    begins = or_(messages.c.previous.is_(None), messages.c.previous != messages.c.position - 1)
    wanted = select(messages.c.position, messages.c.previous).where(place.within(messages), begins)
    found: list[Part] = []
    for row in connection.execute(wanted.order_by(messages.c.position.desc())):
        if tail is not None and most > 0 and row.position <= tail:
            found.append(Part(place.session, max(row.position, tail - most + 1), tail))
            most -= tail - found[-1].first + 1
            tail = row.previous
    return found


def _hold_words(database: Database, tenant: str, sessions: Sequence[str], told: Told, most: int) -> int:
    """Keeps the words of some messages that have none yet, and gives their number."""
    with database.read() as connection:
        parts = _parts(connection, tenant, sessions, most)
        given = _columns(parts) | {"tenant": tenant}
        held = connection.execute(_HELD, given).scalar_one()
        if held == sum(part.last - part.first + 1 for part in parts):
            return 0
        rows = [
            _still_there(place, stored) | {"told": told(stored.message)[:_LONGEST]}
            for row in connection.execute(_WORDLESS, given)
            for place in [Place(tenant, row.session)]
            for stored in [as_message(None, place, row)]
        ]
    if rows:
        with database.write() as connection:
            connection.execute(_since(_KEEP_WORDS), rows)
    return len(rows)


def _columns(parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "sessions": [part.session for part in parts],
        "firsts": [part.first for part in parts],
        "lasts": [part.last for part in parts],
    }


def _still_there(place: Place, stored: StoredMessage) -> dict[str, Any]:
    """Names a message, so that another one in its place is not meant."""
    return place.row() | {"position": stored.position, "created": stored.created}


def _since(statement: str) -> Any:
    return text(statement).bindparams(bindparam("created", type_=Timestamp()))


_LEXEMES = text("SELECT tsvector_to_array(to_tsvector('english', CAST(:words AS text)))")
# The rows of a table that lie in some parts of logs.
_IN_PARTS = """
FROM unnest(CAST(:sessions AS varchar[]), CAST(:firsts AS int[]), CAST(:lasts AS int[])) AS part (session, first, last)
JOIN {} said
    ON said.tenant = :tenant AND said.session = part.session AND said.position BETWEEN part.first AND part.last
"""
_WORDS_IN_PARTS = _IN_PARTS.format("deltamem_message_words")
_HELD = text(f"SELECT count(*) {_WORDS_IN_PARTS}")
_WORDLESS = text(f"""
SELECT said.* {_IN_PARTS.format("deltamem_messages")}
LEFT JOIN deltamem_message_words held
    ON (held.tenant, held.session, held.position) = (said.tenant, said.session, said.position)
WHERE held.position IS NULL
LIMIT {_AT_ONCE}
""").columns(created=Timestamp())
_NAMED = """
FROM deltamem_messages
WHERE tenant = :tenant AND session = :session AND position = :position AND created = :created
"""
_KEEP_WORDS = f"""
INSERT INTO deltamem_message_words (tenant, session, position, words)
SELECT tenant, session, position, to_tsvector('english', CAST(:told AS text)) {_NAMED} FOR KEY SHARE
ON CONFLICT DO NOTHING
"""
_KEEP_VECTOR = f"""
INSERT INTO deltamem_message_vectors (tenant, session, position, key_id, body)
SELECT tenant, session, position, :key_id, :body {_NAMED} {{lock}}
ON CONFLICT (tenant, session, position) DO UPDATE SET key_id = excluded.key_id, body = excluded.body
"""
# BM25 with the usual weights; a text is as long as it has different words.
_RANKED = text(f"""
WITH log AS MATERIALIZED (
    SELECT said.session, said.position, said.words, length(said.words) AS size {_WORDS_IN_PARTS}
    WHERE length(said.words) > 0
), every AS (
    SELECT CAST(count(*) AS float8) AS texts, CAST(avg(size) AS float8) AS size FROM log
), used AS (
    SELECT log.session, log.position, log.size, one.lexeme, cardinality(one.positions) AS times
    FROM log CROSS JOIN LATERAL unnest(log.words) AS one
    WHERE log.words @@ CAST(:query AS tsquery) AND one.lexeme = ANY (CAST(:lexemes AS text[]))
), rare AS (
    SELECT lexeme, ln(1 + (max(every.texts) - count(*) + 0.5) / (count(*) + 0.5)) AS weight
    FROM used CROSS JOIN every GROUP BY lexeme
)
SELECT used.session, used.position,
    sum(rare.weight * used.times * 2.2 / (used.times + 1.2 * (0.25 + 0.75 * used.size / every.size))) AS score
FROM used JOIN rare USING (lexeme) CROSS JOIN every
GROUP BY used.session, used.position
ORDER BY score DESC, used.position DESC
LIMIT :limit
""")
