"""Versions: the memories of a session, how they follow one another, and how a new one is added."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from deltamem.store.checks import (
    check_fingerprint,
    check_kind,
    check_label,
    check_moment,
    check_number,
    check_state,
    check_tokens,
    check_user,
)
from deltamem.store.encryption import StateKeys, row_context, seal, unseal
from deltamem.store.errors import ConflictError, ExistsError, FingerprintError, NotFoundError
from deltamem.store.lookup import LIVING, VERSIONS_OF, alive, label_columns, lock_for_version, now, place_of
from deltamem.store.messages import append_messages, check_messages, drop_unreachable, numbered
from deltamem.store.records import Commit, StoredMessage, Version, VersionInfo
from deltamem.store.schema import Place, named_session, sessions, versions

# After these the log begins anew, or continues from an earlier place.
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
_NUMBER = func.coalesce(bindparam("number", type_=versions.c.number.type), sessions.c.head)
# The columns of :data:`WHOLE` and whether the session is frozen; the head, unless ``number`` says which version.
LOADED = (
    WHOLE.add_columns(sessions.c.frozen)
    .join_from(sessions, versions, and_(VERSIONS_OF, versions.c.number == _NUMBER))
    .where(LIVING)
)
_UPDATE = update(sessions).where(named_session(sessions))


class Rules(NamedTuple):
    """How a store writes: its keys, whether it keeps messages, and how many versions of a session."""

    keys: StateKeys | None
    keep_messages: bool
    keep_versions: int | None


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
    return Version(**{column.name: row._mapping[column.name] for column in INFO}, state=state)


def read_end(connection: Connection, place: Place, number: int) -> tuple[int | None, str]:
    """The last message of the log as a version sees it, and the fingerprint of the adapter that wrote the version.

    Raises:
        NotFoundError: there is no such version, or no longer.
    """
    row = connection.execute(_END, place.named(at_number=number)).one_or_none()
    if row is None:
        raise no_version(connection, place, number)
    return row.tail, row.fingerprint


def drop_versions(connection: Connection, place: Place, before: int) -> int:
    """Deletes the versions below a number, and the messages that then no version's log holds; how many versions."""
    kinds = connection.execute(_DELETE_BEFORE, place.named(at_number=before)).scalars().all()
    if any(kind in LOG_CUTS for kind in kinds):
        drop_unreachable(connection, place)
    return len(kinds)


def no_version(connection: Connection, place: Place, number: int) -> NotFoundError:
    """The error for a version that is not there, or no longer."""
    kept = select(func.min(versions.c.number), func.max(versions.c.number)).where(place.within(versions))
    oldest, latest = connection.execute(kept).one()
    return NotFoundError(f"Session {place.session!r} has no version {number}: {oldest} to {latest} are kept.")


def begin(
    connection: Connection,
    keys: StateKeys | None,
    place: Place,
    version: Version,
    *,
    label: str | None = None,
    user: str | None = None,
    expires: datetime | None = None,
    log: Sequence[StoredMessage] = (),
    origin: tuple[str | None, int | None] = (None, None),
) -> None:
    """Makes a session with its first version.

    Raises:
        ExistsError: the tenant has a session of that name.
    """
    row = place.row() | {
        "head": version.number,
        "positions": len(log),
        "user": check_user(user),
        "frozen": False,
        "created": version.created,
        "updated": version.created,
        "expires": check_moment(expires),
        "origin_session": origin[0],
        "origin_version": origin[1],
        **label_columns(check_label(label)),
    }
    connection.execute(delete(sessions).where(place.within(sessions), ~alive(version.created)))
    try:
        connection.execute(insert(sessions).values(row))
    except IntegrityError:
        raise ExistsError(f"There is a session {place.session!r} already; choose another name.") from None
    tail = append_messages(connection, keys, place, log, None)
    write_version(connection, keys, place, version, tail)


def advance(
    connection: Connection, rules: Rules, place: Place, version: Version, tail: int | None, *, positions: int
) -> None:
    """Makes a version the head of a session that the transaction has locked, and drops those that are too old."""
    write_version(connection, rules.keys, place, version, tail)
    move_head(connection, rules, place, version, positions=positions)


def move_head(connection: Connection, rules: Rules, place: Place, version: Version, *, positions: int) -> None:
    """Makes a version that was written the head, and drops those that are too old."""
    moved = {"head": version.number, "positions": positions, "updated": version.created}
    connection.execute(_UPDATE, place.named(**moved))
    if rules.keep_versions is not None and version.number > rules.keep_versions:
        drop_versions(connection, place, version.number - rules.keep_versions + 1)


def add(connection: Connection, rules: Rules, commit: Commit) -> Version:
    """Does what a commit asks for; see :meth:`SessionStore.commit` for what it raises."""
    place = place_of(commit.tenant, commit.session)
    check_messages(commit.messages)
    kind, state, tokens = check_kind(commit.kind), check_state(commit.state), check_tokens(commit.tokens)
    parent = commit.parent if commit.begin is None else _begin_with(connection, rules, place, commit, commit.begin)
    row = lock_for_version(connection, place, check_number("parent", parent))
    log_end, before = read_end(connection, place, parent)
    written_by = before if commit.fingerprint is None else check_fingerprint(commit.fingerprint)
    anew = kind in LOG_CUTS
    if written_by != before and not anew:
        raise FingerprintError(
            f"Session {commit.session!r} was written by the adapter {before[:12]}… and this {kind} by "
            f"{written_by[:12]}…. Start fresh with the kind forget or import."
        )
    version = Version(parent + 1, parent, None, kind, tokens, written_by, now(), state)
    logged = commit.messages if rules.keep_messages else ()
    placed = numbered(logged, after=row.positions, version=version.number, created=version.created)
    tail = append_messages(connection, rules.keys, place, placed, None if anew else log_end)
    advance(connection, rules, place, version, tail, positions=row.positions + len(placed))
    return version


def _begin_with(connection: Connection, rules: Rules, place: Place, commit: Commit, memory: bytes) -> int:
    """Puts the memory that a commit begins with before it, and gives the number of that version."""
    fingerprint, state = check_fingerprint(commit.fingerprint or ""), check_state(memory)
    if commit.parent == 0:
        try:
            first = Version(1, None, None, "create", 0, fingerprint, now(), state)
            begin(connection, rules.keys, place, first, user=commit.user)
        except ExistsError:
            raise ConflictError(place.session, 0, 1) from None
        return 1
    row = lock_for_version(connection, place, check_number("parent", commit.parent))
    empty = Version(row.head + 1, row.head, None, "forget", 0, fingerprint, now(), state)
    advance(connection, rules, place, empty, None, positions=row.positions)
    return empty.number
