"""Rows of versions: the memories of a session, and how they follow one another."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, insert, select

from deltamem.store.encryption import StateKeys, row_context, seal, unseal
from deltamem.store.errors import InvalidError, NotFoundError
from deltamem.store.messages import drop_unreachable
from deltamem.store.records import Version, VersionInfo
from deltamem.store.schema import Place, named_session, versions

# After these the log begins anew, or goes on from an earlier place.
LOG_CUTS = ("rollback", "forget", "import")
INFO = tuple(versions.c[name] for name in VersionInfo.__dataclass_fields__)
WHOLE: Select[Any] = select(*INFO, versions.c.tail, versions.c.key_id, versions.c.state)
_THIS = (named_session(versions), versions.c.number == bindparam("at_number"))
_WHOLE = WHOLE.where(*_THIS)
_END = select(versions.c.tail, versions.c.fingerprint).where(*_THIS)
_INSERT = insert(versions)
_DELETE_BEFORE = (
    delete(versions)
    .where(named_session(versions), versions.c.number < bindparam("at_number"))
    .returning(versions.c.kind)
)


def write_version(
    connection: Connection, keys: StateKeys | None, place: Place, version: Version, tail: int | None
) -> None:
    """Adds a version; ``tail`` is the last message of the log as it sees it."""
    key_id, state = seal(keys, version.state, row_context(*place, version.number, "state"))
    info = {column.name: getattr(version, column.name) for column in INFO}
    connection.execute(_INSERT, place.row() | info | {"tail": tail, "key_id": key_id, "state": state})


def read_version(
    connection: Connection, keys: StateKeys | None, place: Place, number: int
) -> tuple[Version, int | None]:
    """A version and the last message of the log as it sees it.

    Raises:
        NotFoundError: there is no such version, or no longer.
        EncryptionError: its memory cannot be decrypted.
    """
    row = connection.execute(_WHOLE, place.named(at_number=number)).one_or_none()
    if row is None:
        raise no_version(connection, place, number)
    return whole_version(keys, place, row), row.tail


def whole_version(keys: StateKeys | None, place: Place, row: Row[Any]) -> Version:
    """The version in a row that has the columns of :data:`WHOLE`.

    Raises:
        EncryptionError: its memory cannot be decrypted.
    """
    state = unseal(keys, row.key_id, row.state, row_context(*place, row.number, "state"))
    return Version(**_info(row), state=state)


def read_end(connection: Connection, place: Place, number: int) -> tuple[int | None, str]:
    """The last message of the log as a version sees it, and the fingerprint of the adapter that wrote the version.

    Raises:
        NotFoundError: there is no such version, or no longer.
    """
    row = connection.execute(_END, place.named(at_number=number)).one_or_none()
    if row is None:
        raise no_version(connection, place, number)
    return row.tail, row.fingerprint


def version_info(row: Row[Any]) -> VersionInfo:
    """The record of a row that has the columns of :data:`INFO`."""
    return VersionInfo(**_info(row))


def drop_versions(connection: Connection, place: Place, before: int) -> int:
    """Deletes the versions below a number, and the messages that then no version's log holds; how many versions."""
    kinds = connection.execute(_DELETE_BEFORE, place.named(at_number=before)).scalars().all()
    if any(kind in LOG_CUTS for kind in kinds):
        drop_unreachable(connection, place)
    return len(kinds)


def version_before(connection: Connection, place: Place, head: int, turns: int) -> int:
    """The version before the last ``turns`` turns of the history that led to ``head``.

    What was observed since then is undone with them; turns that an earlier rollback undid do not count.

    Raises:
        InvalidError: there are, or are kept, fewer turns.
    """
    chain = select(versions.c.number, versions.c.parent, versions.c.origin, versions.c.kind)
    kept = {row.number: row for row in connection.execute(chain.where(place.within(versions)))}
    found, number = 0, head
    while number in kept:
        row = kept[number]
        found += row.kind == "turn"
        number = row.origin if row.kind == "rollback" else row.parent
        if found == turns and number in kept:
            return int(number)
    raise InvalidError(
        f"Session {place.session!r} cannot go back {turns} turns: only {found} are kept in the history of its "
        f"version {head}."
    )


def first_version(
    kind: str, state: bytes, tokens: int, fingerprint: str, created: datetime, origin: int | None = None
) -> Version:
    """The version that a session begins with."""
    return Version(1, None, origin, kind, tokens, fingerprint, created, state)


def no_version(connection: Connection, place: Place, number: int) -> NotFoundError:
    """The error for a version that is not there, or no longer."""
    kept = select(func.min(versions.c.number), func.max(versions.c.number)).where(place.within(versions))
    oldest, latest = connection.execute(kept).one()
    return NotFoundError(f"Session {place.session!r} has no version {number}: {oldest} to {latest} are kept.")


def _info(row: Row[Any]) -> dict[str, Any]:
    return {column.name: row._mapping[column.name] for column in INFO}
