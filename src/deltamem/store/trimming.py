"""Deleting the versions that are older than what is to be kept, session by session."""

from sqlalchemy import Connection, Row, and_, func, select, tuple_

from deltamem.store.engine import Database
from deltamem.store.rows import alive, now
from deltamem.store.schema import Place, sessions, versions
from deltamem.store.versions import drop_versions

_BATCH = 50
_OF_SESSION = and_(versions.c.tenant == sessions.c.tenant, versions.c.session == sessions.c.session)


def trim(database: Database, keep: int) -> int:
    """Deletes all but the last ``keep`` versions of every session, and returns how many."""
    gone = 0
    last: Place | None = None
    while True:
        with database.write() as connection:
            rows = _overfull(connection, keep, last)
            for row in rows:
                gone += drop_versions(connection, Place(row.tenant, row.session), row.head - keep + 1)
        if not rows:
            return gone
        last = Place(rows[-1].tenant, rows[-1].session)


def count_surplus(connection: Connection, keep: int) -> int:
    """How many versions :func:`trim` would delete."""
    surplus = select(func.count()).select_from(versions).join(sessions, _OF_SESSION)
    return connection.execute(surplus.where(versions.c.number <= sessions.c.head - keep, alive(now()))).scalar_one()


def _overfull(connection: Connection, keep: int, last: Place | None) -> list[Row[tuple[str, str, int]]]:
    """The next sessions that have older versions, kept from other writers until the transaction ends."""
    place = (sessions.c.tenant, sessions.c.session)
    surplus = select(versions.c.number).where(_OF_SESSION, versions.c.number <= sessions.c.head - keep).exists()
    wanted = select(*place, sessions.c.head).where(surplus, alive(now()))
    if last is not None:
        wanted = wanted.where(tuple_(*place) > last)
    return list(connection.execute(wanted.order_by(*place).limit(_BATCH).with_for_update()))
