"""The log: messages, each naming the one before it, so that forks and rollbacks share what they have in common."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select

from deltamem.store.encryption import StateKeys, row_context, seal, unseal
from deltamem.store.errors import InvalidError, SchemaError
from deltamem.store.records import StoredMessage
from deltamem.store.schema import Place, messages, versions

_READ_AT_ONCE = 500


def append_messages(
    connection: Connection,
    keys: StateKeys | None,
    place: Place,
    written: Sequence[StoredMessage],
    tail: int | None,
) -> int | None:
    """Adds messages after ``tail`` and returns the new tail."""
    rows: list[dict[str, Any]] = []
    for item in written:
        key_id, body = seal(keys, _to_bytes(item.message), row_context(*place, item.position, "message"))
        row = place.row() | {"position": item.position, "previous": tail, "version": item.version}
        rows.append(row | {"created": item.created, "key_id": key_id, "body": body})
        tail = item.position
    if rows:
        connection.execute(insert(messages), rows)
    return tail


def numbered(given: Sequence[Mapping[str, Any]], *, after: int, version: int, created: datetime) -> list[StoredMessage]:
    """Messages with the positions that follow ``after``."""
    return [StoredMessage(after + i, version, message, created) for i, message in enumerate(given, 1)]


def read_messages(
    connection: Connection, keys: StateKeys | None, place: Place, tail: int | None, limit: int | None = None
) -> list[StoredMessage]:
    """The last ``limit`` messages up to ``tail``, oldest first.

    Raises:
        EncryptionError: one cannot be decrypted.
        SchemaError: one is missing from the database.
    """
    found: list[StoredMessage] = []
    left = limit
    while tail is not None and left != 0:
        start = tail
        # A log is consecutive but for what was rolled back, so a range of positions mostly holds the next ones.
        below = select(messages).where(place.within(messages), messages.c.position <= tail)
        count = _READ_AT_ONCE if left is None else min(left, _READ_AT_ONCE)
        for row in connection.execute(below.order_by(messages.c.position.desc()).limit(count)):
            if row.position == tail:
                found.append(as_message(keys, place, row))
                tail = row.previous
        if tail == start:
            raise SchemaError(f"Message {tail} of session {place.session!r} is missing: restore a backup.")
        left = None if limit is None else limit - len(found)
    return found[::-1]


def all_messages(connection: Connection, keys: StateKeys | None, place: Place) -> Iterator[StoredMessage]:
    """Every message that is kept, in whatever version's log.

    Raises:
        EncryptionError: one cannot be decrypted.
    """
    wanted = select(messages).where(place.within(messages)).order_by(messages.c.position)
    return (as_message(keys, place, row) for row in connection.execute(wanted))


def as_message(keys: StateKeys | None, place: Place, row: Row[Any]) -> StoredMessage:
    """A message from its row.

    Raises:
        EncryptionError: it cannot be decrypted.
    """
    body = unseal(keys, row.key_id, row.body, row_context(*place, row.position, "message"))
    return StoredMessage(row.position, row.version, json.loads(body.decode("utf-8", "surrogatepass")), row.created)


def previous_message(connection: Connection, place: Place, position: int) -> int | None:
    """The message before one; ``None`` if it is the first, or not there."""
    found = select(messages.c.previous).where(place.within(messages), messages.c.position == position)
    return connection.execute(found).scalar_one_or_none()


def drop_unreachable(connection: Connection, place: Place) -> None:
    """Deletes the messages that the log of no kept version holds."""
    tails = select(versions.c.tail).where(place.within(versions), versions.c.tail.is_not(None)).distinct()
    links = select(messages.c.position, messages.c.previous).where(place.within(messages))
    previous = {row.position: row.previous for row in connection.execute(links)}
    unheld = set(previous)
    for position in connection.execute(tails).scalars():
        while position in unheld:
            unheld.remove(position)
            position = previous[position]
    if unheld:
        gone = delete(messages).where(place.within(messages), messages.c.position == bindparam("gone"))
        connection.execute(gone, [{"gone": position} for position in sorted(unheld)])


def check_messages(given: Sequence[Mapping[str, Any]]) -> None:
    """Raises an :class:`InvalidError` for messages that cannot be stored as JSON."""
    for number, message in enumerate(given):
        if not isinstance(message, Mapping):
            raise InvalidError(f"Message {number} is a {type(message).__name__}; a message is a mapping.")
        try:
            _to_bytes(message)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidError(f"Message {number} cannot be stored as JSON: {error}.") from None


def _to_bytes(message: Mapping[str, Any]) -> bytes:
    # JSON may spell half a surrogate pair; it comes back as it was.
    return json.dumps(dict(message), ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
