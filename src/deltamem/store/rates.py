"""How much API keys and tenants have asked for in the last minute, shared by all servers of a store."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from deltamem.store.checks import check_name, check_number
from deltamem.store.lookup import now
from deltamem.store.records import TenantLimits
from deltamem.store.schema import rates, tenant_limits
from deltamem.store.sessions import SessionStore


class Over(NamedTuple):
    """What a limit was exceeded by: whose it is, what it counts, and the seconds until there is more."""

    whose: str
    what: str
    seconds: float


class Rates:
    """Limits of requests and tokens a minute, counted in a store's database.

    A minute's worth can be asked for at once, and comes back evenly. More tokens may be taken than there are, because
    they are known only afterwards; then nothing is let in until they have come back.

    Args:
        store: an open store; it is not closed with this object.
    """

    def __init__(self, store: SessionStore) -> None:
        self._database = store.database

    def limit(self, tenant: str, limits: TenantLimits) -> None:
        """Sets what a tenant may ask for in all, with whatever keys.

        Raises:
            InvalidError: the name or a limit is malformed.
        """
        check_name("tenant", tenant)
        for name, value in vars(limits).items():
            if value is not None:
                check_number(name, value)
        with self._database.write() as connection:
            connection.execute(delete(tenant_limits).where(tenant_limits.c.tenant == tenant))
            if any(value is not None for value in vars(limits).values()):
                connection.execute(tenant_limits.insert().values(tenant=tenant, **vars(limits)))

    def limits(self) -> Mapping[str, TenantLimits]:
        """The tenants that have limits."""
        with self._database.read() as connection:
            rows = connection.execute(select(tenant_limits).order_by(tenant_limits.c.tenant)).all()
        return {row.tenant: TenantLimits(row.requests_per_minute, row.tokens_per_minute) for row in rows}

    def admit(self, limits: Mapping[str, TenantLimits]) -> Over | None:
        """Counts a request against all limits, or against none if it is over one.

        Args:
            limits: by whose they are, such as ``key:key_1`` and ``tenant:acme``.

        Returns:
            the limit that it is over.
        """
        with self._database.write() as connection:
            moment = now()
            levels = {whose: _filled(connection, whose, limit, moment) for whose, limit in sorted(limits.items())}
            for whose, (requests, tokens) in levels.items():
                limit = limits[whose]
                if limit.tokens_per_minute is not None and tokens <= 0:
                    return Over(whose, "tokens", (1 - tokens) * 60 / limit.tokens_per_minute)
                if limit.requests_per_minute is not None and requests < 1:
                    return Over(whose, "requests", (1 - requests) * 60 / limit.requests_per_minute)
            for whose, (requests, tokens) in levels.items():
                counted = requests if limits[whose].requests_per_minute is None else requests - 1
                _put(connection, whose, requests=counted, tokens=tokens, filled=moment)
        return None

    def charge(self, limits: Mapping[str, TenantLimits], tokens: int) -> None:
        """Counts tokens that were read or generated."""
        with self._database.write() as connection:
            moment = now()
            for whose, limit in sorted(limits.items()):
                requests, left = _filled(connection, whose, limit, moment)
                counted = left if limit.tokens_per_minute is None else left - tokens
                _put(connection, whose, requests=requests, tokens=counted, filled=moment)


def _filled(connection: Connection, whose: str, limit: TenantLimits, moment: datetime) -> tuple[float, float]:
    """The requests and tokens that are left, kept from other servers until the transaction ends."""
    sizes = (float(limit.requests_per_minute or 0), float(limit.tokens_per_minute or 0))
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    full = insert(rates).values(whose=whose, requests=sizes[0], tokens=sizes[1], filled=moment)
    connection.execute(full.on_conflict_do_nothing())
    row = connection.execute(select(rates).where(rates.c.whose == whose).with_for_update()).one()
    # Another machine's clock may be ahead.
    minutes = max(0.0, (moment - row.filled).total_seconds() / 60)
    requests, tokens = (min(size, left + minutes * size) for size, left in zip(sizes, row[1:3], strict=True))
    return requests, tokens


def _put(connection: Connection, whose: str, **values: Any) -> None:
    connection.execute(update(rates).where(rates.c.whose == whose).values(values))
