"""How a session's timeline changes other than by a commit: a fork, a rollback, another past."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, delete, select

from deltamem.store.checks import check_number, check_state
from deltamem.store.encryption import StateKeys
from deltamem.store.errors import InvalidError
from deltamem.store.lookup import lock, lock_for_version, now
from deltamem.store.messages import append_messages, drop_unreachable, numbered, read_messages
from deltamem.store.records import Rewritten, Version
from deltamem.store.schema import Place, versions
from deltamem.store.versions import (
    Rules,
    advance,
    begin,
    move_head,
    read_end,
    read_version,
    write_version,
)
from deltamem.wording import counted


def fork(
    connection: Connection,
    keys: StateKeys | None,
    source: Place,
    place: Place,
    version: int | None,
    *,
    label: str | None,
    expires: datetime | None,
) -> None:
    """Begins a session with a version of another, the head by default, and with the log up to there."""
    row = lock(connection, source)
    number = row.head if version is None else check_number("version", version)
    found, tail = read_version(connection, keys, source, number)
    copy = replace(found, number=1, parent=None, origin=found.number, kind="fork", created=now())
    log = [
        replace(message, position=i, version=1)
        for i, message in enumerate(read_messages(connection, keys, source, tail), 1)
    ]
    origin = (source.session, found.number)
    begin(connection, keys, place, copy, label=label, user=row.user, expires=expires, log=log, origin=origin)


def roll_back(
    connection: Connection, rules: Rules, place: Place, version: int | None, turns: int, *, parent: int | None
) -> Version:
    """Adds a version with the memory of an earlier one: ``version``, or the one before the last ``turns`` turns."""
    row = lock_for_version(connection, place, parent)
    number = version or _version_before(connection, place, row.head, turns)
    found, tail = read_version(connection, rules.keys, place, number)
    again = replace(found, number=row.head + 1, parent=row.head, origin=number, kind="rollback", created=now())
    advance(connection, rules, place, again, tail, positions=row.positions)
    return again


def rewrite(
    connection: Connection,
    rules: Rules,
    place: Place,
    parent: int,
    base: int | None,
    turns: Sequence[Rewritten],
    *,
    empty: bytes,
) -> Version:
    """Replaces what came since ``base`` by other turns, and gives the last version."""
    row = lock_for_version(connection, place, check_number("parent", parent))
    _, fingerprint = read_end(connection, place, parent)
    if base is None:
        version, tail = Version(row.head + 1, None, None, "forget", 0, fingerprint, now(), empty), None
    else:
        found, tail = read_version(connection, rules.keys, place, check_number("base", base))
        version = replace(found, number=row.head + 1, parent=base, origin=base, kind="rollback", created=now())
    write_version(connection, rules.keys, place, version, tail)
    positions = row.positions
    for turn in turns:
        last, state = version, check_state(turn.state)
        version = Version(last.number + 1, last.number, None, turn.kind, turn.tokens, last.fingerprint, now(), state)
        placed = numbered(turn.messages, after=positions, version=version.number, created=turn.created)
        tail = append_messages(connection, rules.keys, place, placed, tail)
        positions += len(placed)
        write_version(connection, rules.keys, place, version, tail)
    replaced = versions.c.number.between((base or 0) + 1, row.head)
    connection.execute(delete(versions).where(place.within(versions), replaced))
    drop_unreachable(connection, place)
    move_head(connection, rules, place, version, positions=positions)
    return version


def _version_before(connection: Connection, place: Place, head: int, turns: int) -> int:
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
        f"Session {place.session!r} cannot go back {counted(turns, 'turn')}: {found or 'none'} of them "
        f"{'is' if found == 1 else 'are'} kept in the history of its version {head}."
    )
