"""Giving sessions their versions, within a transaction of the caller's."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.exc import IntegrityError

from deltamem.store.checks import (
    check_fingerprint,
    check_kind,
    check_label,
    check_moment,
    check_number,
    check_state,
    check_tokens,
)
from deltamem.store.encryption import StateKeys
from deltamem.store.errors import ConflictError, ExistsError, FingerprintError
from deltamem.store.messages import append_messages, check_messages, numbered
from deltamem.store.reading import place_of
from deltamem.store.records import Commit, StoredMessage, Version
from deltamem.store.rows import alive, label_columns, lock_for_version, now
from deltamem.store.schema import Place, named_session, sessions
from deltamem.store.versions import LOG_CUTS, drop_versions, first_version, read_end, write_version

_UPDATE = update(sessions).where(named_session(sessions))


class Rules(NamedTuple):
    """How a store writes: its keys, whether it keeps messages, and how many versions of a session."""

    keys: StateKeys | None
    keep_messages: bool
    keep_versions: int | None


def begin(
    connection: Connection,
    keys: StateKeys | None,
    place: Place,
    version: Version,
    *,
    label: str | None = None,
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
            begin(connection, rules.keys, place, first_version("create", state, 0, fingerprint, now()))
        except ExistsError:
            raise ConflictError(place.session, 0, 1) from None
        return 1
    row = lock_for_version(connection, place, check_number("parent", commit.parent))
    empty = Version(row.head + 1, row.head, None, "forget", 0, fingerprint, now(), state)
    advance(connection, rules, place, empty, None, positions=row.positions)
    return empty.number
