"""The audit log: who read, wrote, exported and deleted what. Rows are added; the database refuses to change them."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, text

from deltamem.store.checks import check_moment, check_name, check_number
from deltamem.store.errors import InvalidError
from deltamem.store.records import ACTIONS, Act, AuditEntry
from deltamem.store.schema import AUDIT_GUARD, audit
from deltamem.store.sessions import SessionStore

_AT_ONCE = 1000


class AuditLog:
    """The audit log in a store's database.

    Args:
        store: an open store; it is not closed with this object.
    """

    def __init__(self, store: SessionStore) -> None:
        self._database = store.database

    def add(self, acts: Sequence[Act]) -> None:
        """Adds entries, in one transaction; durable once this returns.

        Raises:
            InvalidError: an action is none.
        """
        with self._database.write() as connection:
            add_acts(connection, acts)

    def read(
        self,
        tenant: str | None = None,
        *,
        session: str | None = None,
        user: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
        limit: int = _AT_ONCE,
    ) -> tuple[AuditEntry, ...]:
        """Entries of a tenant or of all, the oldest first.

        Args:
            tenant: whose.
            session: only those about this session.
            user: only those on behalf of this user.
            since: only those from this time on.
            until: only those before this time.
            after: only those with a higher number.
            limit: how many.
        """
        wanted = select(audit).where(audit.c.number > after).order_by(audit.c.number)
        for name, value in (("tenant", tenant), ("session", session), ("user", user)):
            if value is not None:
                wanted = wanted.where(audit.c[name] == check_name(name, value))
        if since is not None:
            wanted = wanted.where(audit.c.created >= check_moment(since))
        if until is not None:
            wanted = wanted.where(audit.c.created < check_moment(until))
        with self._database.read() as connection:
            rows = connection.execute(wanted.limit(check_number("limit", limit)))
            return tuple(AuditEntry(**row._mapping) for row in rows)

    def all(
        self, tenant: str | None = None, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[AuditEntry]:
        """Every entry of a tenant or of all, the oldest first, read in parts."""
        last = 0
        while found := self.read(tenant, since=since, until=until, after=last):
            yield from found
            last = found[-1].number

    def prune(self, before: datetime, by: Act) -> int:
        """Deletes the entries before a time, and adds one that says so; returns how many.

        It is what an operator does whose rules limit how long such a log is kept. Nothing else can delete entries.
        """
        moment = check_moment(before)
        with self._database.write() as connection:
            connection.execute(text(AUDIT_GUARD[connection.dialect.name].lift))
            gone = connection.execute(delete(audit).where(audit.c.created < moment)).rowcount
            connection.execute(text(AUDIT_GUARD[connection.dialect.name].restore))
            add_acts(connection, [by])
        self._database.scrub()
        return gone


def add_acts(connection: Connection, acts: Sequence[Act]) -> None:
    """Adds entries in the caller's transaction.

    Raises:
        InvalidError: an action is none.
    """
    for act in acts:
        if act.action not in ACTIONS:
            raise InvalidError(f"{act.action!r} is not an action; there are {', '.join(ACTIONS)}.")
    if acts:
        connection.execute(insert(audit), [vars(act) for act in acts])
