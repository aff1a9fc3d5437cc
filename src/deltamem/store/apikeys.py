"""API keys: who may open which tenant's sessions."""

import contextlib
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update

from deltamem.store.checks import check_label, check_name, check_number
from deltamem.store.errors import InvalidError, NotFoundError, UnavailableError
from deltamem.store.lookup import now
from deltamem.store.records import SCOPES, KeyLimits, KeyRecord, NewKey, Scope, TenantLimits
from deltamem.store.schema import api_keys, tenant_limits
from deltamem.store.sessions import SessionStore

PREFIX = "dm_"
_SECRET_BYTES = 32
_HINT = len(PREFIX) + 4
_USE_INTERVAL = timedelta(minutes=1)
_ACTIVE = select(api_keys.c.id).where(api_keys.c.revoked.is_(None)).limit(1)
_KEYS = select(
    api_keys, *(tenant_limits.c[name].label(f"tenant_{name}") for name in TenantLimits.__dataclass_fields__)
).outerjoin(tenant_limits, tenant_limits.c.tenant == api_keys.c.tenant)
_BY_DIGEST = _KEYS.where(api_keys.c.digest == bindparam("wanted"))


class ApiKeys:
    """The API keys in a store's database, kept as their SHA-256: a key has 256 random bits, so it needs no salt.

    Args:
        store: an open store; you close it yourself.
    """

    def __init__(self, store: SessionStore) -> None:
        self._database = store.database
        self._noted: dict[str, datetime] = {}

    def create(
        self, tenant: str, label: str | None = None, limits: KeyLimits | None = None, *, scope: Scope = "write"
    ) -> NewKey:
        """Creates a key for a tenant. Only the answer has its secret.

        Raises:
            InvalidError: the tenant's name, the label, a limit or the scope is malformed.
        """
        if scope not in SCOPES:
            raise InvalidError(f"A key's scope is one of {', '.join(SCOPES)}.")
        allowed = vars(limits or KeyLimits())
        for name, value in allowed.items():
            if value is not None:
                check_number(name, value)
        secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        row = {
            "id": f"key_{secrets.token_hex(6)}",
            "tenant": check_name("tenant", tenant),
            "label": check_label(label),
            "hint": secret[:_HINT],
            "digest": _digest(secret),
            "scope": scope,
            "created": now(),
            **allowed,
        }
        with self._database.write() as connection:
            connection.execute(insert(api_keys).values(row))
            return NewKey(secret, _record(connection.execute(_KEYS.where(api_keys.c.id == row["id"])).one()))

    def list(self, tenant: str | None = None) -> tuple[KeyRecord, ...]:
        """The keys of a tenant, or of all tenants, oldest first, with the revoked ones."""
        wanted = _KEYS.order_by(api_keys.c.created, api_keys.c.id)
        if tenant is not None:
            wanted = wanted.where(api_keys.c.tenant == check_name("tenant", tenant))
        with self._database.read() as connection:
            return tuple(_record(row) for row in connection.execute(wanted))

    def any_active(self) -> bool:
        """Whether any tenant has an active key."""
        with self._database.read() as connection:
            return connection.execute(_ACTIVE).first() is not None

    def revoke(self, key_id: str) -> KeyRecord:
        """Revokes a key at once; revoking it twice changes nothing.

        Raises:
            NotFoundError: there is no such key.
        """
        name = check_name("key", key_id)
        unrevoked = update(api_keys).where(api_keys.c.id == name, api_keys.c.revoked.is_(None))
        with self._database.write() as connection:
            connection.execute(unrevoked.values(revoked=now()))
            row = connection.execute(_KEYS.where(api_keys.c.id == name)).one_or_none()
        if row is None and name.startswith(PREFIX):
            raise NotFoundError(
                "That is an API key itself. Give its id, which the list shows beside the key's beginning."
            )
        if row is None:
            raise NotFoundError(f"There is no API key {name!r}; list them to see their ids.")
        return _record(row)

    def authenticate(self, secret: str) -> KeyRecord | None:
        """The record of an active key; ``None`` for any other text.

        The time that this takes depends only on the text's SHA-256, so it reveals nothing about the keys.
        """
        digest = _digest(secret)
        with self._database.read() as connection:
            row = connection.execute(_BY_DIGEST, {"wanted": digest}).one_or_none()
        stored = row.digest if row is not None else _digest("")
        if not hmac.compare_digest(stored, digest) or row is None or row.revoked is not None:
            return None
        record = _record(row)
        self._note_use(record)
        return record

    def _note_use(self, record: KeyRecord) -> None:
        moment = now()
        last = max(filter(None, (record.last_used, self._noted.get(record.id))), default=None)
        if last is not None and moment - last < _USE_INTERVAL:
            return
        self._noted[record.id] = moment
        # A database that cannot be written for a while is no reason to turn a reader away.
        with contextlib.suppress(UnavailableError), self._database.write() as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == record.id).values(last_used=moment))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _record(row: Row[Any]) -> KeyRecord:
    columns = row._mapping
    named = KeyRecord.__dataclass_fields__.keys() - {"limits", "tenant_limits"}
    limits = KeyLimits(**{name: columns[name] for name in KeyLimits.__dataclass_fields__})
    shared = TenantLimits(**{name: columns[f"tenant_{name}"] for name in TenantLimits.__dataclass_fields__})
    return KeyRecord(**{name: columns[name] for name in named}, limits=limits, tenant_limits=shared)
