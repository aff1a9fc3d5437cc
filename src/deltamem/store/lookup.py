"""Finding, locking and listing sessions, always within a tenant."""

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from deltamem.files import from_json
from deltamem.store.checks import check_name, fold
from deltamem.store.errors import ConflictError, FrozenError, InvalidError, NotFoundError
from deltamem.store.records import Page, SessionRecord
from deltamem.store.schema import Place, named_session, sessions, versions

Order = Literal["updated", "created"]
MAX_PAGE = 1000


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def alive(moment: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """The condition for sessions that have not expired."""
    return or_(sessions.c.expires.is_(None), sessions.c.expires > moment)


def of_user(user: str) -> ColumnElement[bool]:
    """The condition for a user's sessions: those that say so, and those that memories one by one are kept in."""
    named = f"user:{user}"
    return or_(
        sessions.c.user == user,
        sessions.c.session == named,
        sessions.c.session.startswith(f"{named}:", autoescape=True),
    )


# The session that is named when the statement runs, unless it has expired by ``moment``.
LIVING = and_(named_session(sessions), alive(bindparam("moment")))
# The versions of a session.
VERSIONS_OF = and_(versions.c.tenant == sessions.c.tenant, versions.c.session == sessions.c.session)
_RECORDS = select(sessions, versions.c.fingerprint, versions.c.tokens).join(
    versions, and_(VERSIONS_OF, versions.c.number == sessions.c.head)
)
_RECORD = _RECORDS.where(LIVING)
_LOCKED = select(sessions).where(LIVING).with_for_update()


def place_of(tenant: str, session: str) -> Place:
    """Where the rows of a session are; both names are checked."""
    return Place(check_name("tenant", tenant), check_name("session", session))


def not_found(session: str) -> NotFoundError:
    """The error for a session that is not there, has expired, or is another tenant's."""
    return NotFoundError(f"There is no session {session!r}. Check its name, or create it.")


def find(connection: Connection, place: Place) -> SessionRecord:
    """A session's record.

    Raises:
        NotFoundError: it is not there.
    """
    row = connection.execute(_RECORD, place.named(moment=now())).one_or_none()
    if row is None:
        raise not_found(place.session)
    return _record(row)


def lock(connection: Connection, place: Place) -> Row[Any]:
    """A session's row, kept from other writers until the transaction ends.

    Raises:
        NotFoundError: it is not there.
    """
    row = connection.execute(_LOCKED, place.named(moment=now())).one_or_none()
    if row is None:
        raise not_found(place.session)
    return row


def lock_for_version(connection: Connection, place: Place, parent: int | None) -> Row[Any]:
    """The same, for adding a version after ``parent`` (after whatever is the head, if ``None``).

    Raises:
        NotFoundError: the session is not there.
        FrozenError: it is frozen.
        ConflictError: its head is another version.
    """
    row = lock(connection, place)
    if row.frozen:
        raise FrozenError(f"Session {place.session!r} is frozen, so you cannot write to it. Unfreeze it, or fork it.")
    if parent is not None and parent != row.head:
        raise ConflictError(place.session, parent, row.head)
    return row


def page(
    connection: Connection,
    tenant: str,
    *,
    label: str | None,
    search: str | None,
    user: str | None,
    limit: int,
    after: str | None,
    order: Order,
) -> Page:
    """Some sessions of a tenant, the latest first.

    Raises:
        InvalidError: the limit or the cursor is not one.
    """
    if order not in ("updated", "created"):
        raise InvalidError("Sessions are ordered by updated or by created.")
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidError(f"A page has 1 to {MAX_PAGE} sessions.")
    wanted = _RECORDS.where(sessions.c.tenant == tenant, alive(now()))
    if label is not None:
        wanted = wanted.where(sessions.c.label == label)
    if user is not None:
        wanted = wanted.where(of_user(user))
    if search is not None:
        wanted = wanted.where(
            or_(
                sessions.c.label_folded.contains(fold(search), autoescape=True),
                func.lower(sessions.c.session).contains(search.lower(), autoescape=True),
            )
        )
    stamp = sessions.c[order]
    if after is not None:
        moment, name = _from_cursor(after, order)
        edge = tuple_(literal(moment, stamp.type), literal(name, sessions.c.session.type))
        wanted = wanted.where(tuple_(stamp, sessions.c.session) < edge)
    wanted = wanted.order_by(stamp.desc(), sessions.c.session.desc()).limit(limit + 1)
    found = [_record(row) for row in connection.execute(wanted)]
    more = len(found) > limit
    shown = tuple(found[:limit])
    return Page(shown, _to_cursor(shown[-1], order) if more else None)


def label_columns(label: str | None) -> Mapping[str, str | None]:
    """A label as it is shown and as it is searched."""
    return {"label": label, "label_folded": None if label is None else fold(label)}


def _record(row: Row[Any]) -> SessionRecord:
    origin = None if row.origin_session is None else (row.origin_session, row.origin_version)
    named = SessionRecord.__dataclass_fields__.keys() - {"origin"}
    return SessionRecord(**{name: row._mapping[name] for name in named}, origin=origin)


def _to_cursor(record: SessionRecord, order: Order) -> str:
    text = json.dumps([order, getattr(record, order).isoformat(), record.session])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _from_cursor(cursor: str, order: Order) -> tuple[datetime, str]:
    try:
        ordered, moment, name = from_json(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        if ordered != order or not isinstance(name, str) or not name.isascii() or "\0" in name:
            raise ValueError
        stamp = datetime.fromisoformat(moment)
        if stamp.tzinfo is None:
            raise ValueError
        return stamp, name
    except (binascii.Error, ValueError, TypeError):
        raise InvalidError("after is not the cursor of an earlier page in the same order.") from None
