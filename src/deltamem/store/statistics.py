"""Counting what a store holds."""

from typing import Any

from sqlalchemy import Connection, Select, Table, func, select

from deltamem.store.records import StoreStats
from deltamem.store.rows import now
from deltamem.store.schema import VERSION, api_keys, found_version, messages, sessions, versions


def count(connection: Connection, tenant: str | None) -> StoreStats:
    """How much there is of a tenant's, or of all."""
    expired = func.count().filter(sessions.c.expires <= now())
    tenants, held, gone = connection.execute(
        _of(sessions, tenant, func.count(sessions.c.tenant.distinct()), func.count(), expired)
    ).one()
    states, state_bytes, state_keys = _rows(connection, versions, "state", tenant)
    logged, message_bytes, message_keys = _rows(connection, messages, "body", tenant)
    keys = connection.execute(_of(api_keys, tenant, func.count()).where(api_keys.c.revoked.is_(None))).scalar_one()
    return StoreStats(
        schema_version=found_version(connection) or VERSION,
        tenants=tenants,
        sessions=held,
        expired=gone,
        versions=states,
        messages=logged,
        state_bytes=state_bytes,
        message_bytes=message_bytes,
        rows_by_key={key: state_keys.get(key, 0) + message_keys.get(key, 0) for key in {**state_keys, **message_keys}},
        api_keys=keys,
    )


def _rows(
    connection: Connection, table: Table, column: str, tenant: str | None
) -> tuple[int, int, dict[str | None, int]]:
    """Rows, the bytes of their column, and rows by the key that encrypts them."""
    wanted = _of(table, tenant, table.c.key_id, func.count(), func.sum(func.length(table.c[column])))
    found = connection.execute(wanted.group_by(table.c.key_id)).all()
    return (
        sum(rows for _, rows, _ in found),
        sum(int(size) for _, _, size in found),
        {key: rows for key, rows, _ in found},
    )


def _of(table: Table, tenant: str | None, *columns: Any) -> Select[Any]:
    wanted = select(*columns).select_from(table)
    return wanted if tenant is None else wanted.where(table.c.tenant == tenant)
