"""Everything that a tenant or one of its users has, as JSON lines."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from deltamem.store.apikeys import ApiKeys
from deltamem.store.audit import AuditLog
from deltamem.store.checks import check_name, check_user
from deltamem.store.sessions import SessionStore
from deltamem.version import __version__

_FORMAT = 1


def export(store: SessionStore, tenant: str, user: str | None = None) -> Iterator[dict[str, Any]]:
    """What a store holds of a tenant, or of one of its users, as values for JSON, one after the other.

    First an ``export``; then a ``session`` each with all kept versions, their memories in base64, and every kept
    message; of a tenant an ``api_key`` each, without the secret; then an ``audit`` for each entry of the audit log; and
    an ``end`` with the number of sessions, without which the export is incomplete. Each session is of one moment.

    Args:
        store: an open store.
        tenant: whose.
        user: only what belongs to this user.

    Raises:
        InvalidError: a name is malformed.
        EncryptionError: something cannot be decrypted.
    """
    check_name("tenant", tenant)
    check_user(user)
    return _lines(store, tenant, user)


def _lines(store: SessionStore, tenant: str, user: str | None) -> Iterator[dict[str, Any]]:
    about = {"tenant": tenant, "user": user, "created": _moment(datetime.now(UTC))}
    yield {"object": "export", "format": _FORMAT, "deltamem": __version__, **about}
    names = set()
    for name in _sessions(store, tenant, user):
        found = store.whole(tenant, name)
        if found is None:  # deleted meanwhile
            continue
        names.add(name)
        record, versions, log = found
        yield {
            "object": "session",
            **_plain(vars(record)),
            "versions": [_plain(vars(version)) for version in versions],
            "messages": [_plain(vars(message)) for message in log],
        }
    if user is None:
        for key in ApiKeys(store).list(tenant):
            limits = {"limits": vars(key.limits), "tenant_limits": vars(key.tenant_limits)}
            yield {"object": "api_key", **_plain(vars(key)), **limits}
    for entry in AuditLog(store).all(tenant):
        if user is None or entry.user == user or entry.session in names:
            yield {"object": "audit", **_plain(vars(entry))}
    yield {"object": "end", "sessions": len(names)}


def _sessions(store: SessionStore, tenant: str, user: str | None) -> Iterator[str]:
    after = None
    while True:
        page = store.list(tenant, user=user, order="created", limit=200, after=after)
        yield from (record.session for record in page.sessions)
        after = page.after
        if after is None:
            return


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in values.items()}


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return _moment(value) if isinstance(value, datetime) else value


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
