"""What an operator does with a whole store: counting, deleting what is old, encrypting anew. By small transactions."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, delete, exists, func, or_, select, tuple_, update

from deltamem.store.database import Database
from deltamem.store.encryption import ENVIRONMENT, StateKeys, row_context, seal, unseal
from deltamem.store.errors import EncryptionError
from deltamem.store.lookup import VERSIONS_OF, alive, now
from deltamem.store.records import StoreStats
from deltamem.store.schema import VERSION, Place, api_keys, found_version, message_vectors, messages, sessions, versions
from deltamem.store.versions import drop_versions

PURGED_AT_ONCE = 200
TRIMMED_AT_ONCE = 50
ENCRYPTED_AT_ONCE = 200
# Each table's number within a session, its encrypted column, and the name that the ciphertext is bound to.
_ENCRYPTED = (
    (versions, "number", "state", "state"),
    (messages, "position", "body", "message"),
    (message_vectors, "position", "body", "vector"),
)


def count(connection: Connection, tenant: str | None) -> StoreStats:
    """How much there is of a tenant's, or of all."""
    expired = func.count().filter(sessions.c.expires <= now())
    tenants, held, gone = connection.execute(
        _of(sessions, tenant, func.count(sessions.c.tenant.distinct()), func.count(), expired)
    ).one()
    states, state_bytes, state_keys = _rows(connection, versions, "state", tenant)
    logged, message_bytes, message_keys = _rows(connection, messages, "body", tenant)
    _, _, vector_keys = _rows(connection, message_vectors, "body", tenant)
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
        rows_by_key=dict(Counter(state_keys) + Counter(message_keys) + Counter(vector_keys)),
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


def purge(database: Database, moment: datetime) -> int:
    """Deletes the sessions that have expired by ``moment``, and returns how many."""
    expired = sessions.c.expires <= moment
    place = (sessions.c.tenant, sessions.c.session)
    some = tuple_(*place).in_(select(*place).where(expired).limit(PURGED_AT_ONCE))
    # The condition twice: PostgreSQL waits for a session that is being changed, and then asks the outer one again.
    expired_ones = delete(sessions).where(some, expired)
    gone, last = 0, PURGED_AT_ONCE
    while last == PURGED_AT_ONCE:
        with database.write() as connection:
            last = connection.execute(expired_ones).rowcount
        gone += last
    return gone


def trim(database: Database, keep: int) -> int:
    """Deletes all but the last ``keep`` versions of every session, and returns how many."""
    overfull = exists().where(VERSIONS_OF, versions.c.number <= sessions.c.head - keep)

    def drop(connection: Connection, row: Row[Any]) -> int:
        return drop_versions(connection, Place(row.tenant, row.session), row.head - keep + 1)

    return _change(database, sessions, overfull & alive(now()), TRIMMED_AT_ONCE, drop)


def count_surplus(connection: Connection, keep: int) -> int:
    """How many versions :func:`trim` would delete."""
    surplus = select(func.count()).select_from(versions).join(sessions, VERSIONS_OF)
    return connection.execute(surplus.where(versions.c.number <= sessions.c.head - keep, alive(now()))).scalar_one()


def check_keys(connection: Connection, keys: StateKeys | None) -> None:
    """Decrypts one row of each key that encrypts any.

    Raises:
        EncryptionError: there is none for some row, or another.
    """
    for table, number, column, bound in _ENCRYPTED:
        for key_id in _key_ids(connection, table):
            if keys is None or key_id not in keys:
                lacking = (
                    "the store was opened without keys. They cannot be read, and new rows would be plain text"
                    if keys is None
                    else f"this is not among the store's keys ({', '.join(keys)}). They cannot be read"
                )
                raise EncryptionError(
                    f"Rows are encrypted with the key {key_id!r}, and {lacking}. Set {ENVIRONMENT} to the keys that "
                    "the store was written with.",
                    "The store's encryption keys are not those that it was written with; its operator has to set them.",
                )
            one = connection.execute(select(table).where(table.c.key_id == key_id).limit(1)).one()._mapping
            place = Place(one["tenant"], one["session"])
            unseal(keys, key_id, one[column], row_context(*place, one[number], bound))


def any_plain(connection: Connection) -> bool:
    """Whether a row that keys would encrypt lies in plain text."""
    plain = (exists().where(table.c.key_id.is_(None)) for table, *_ in _ENCRYPTED)
    return bool(connection.execute(select(or_(*plain))).scalar_one())


def _key_ids(connection: Connection, table: Table) -> Iterator[str]:
    """The keys that encrypt some row, each found by its index and not by going through all rows."""
    last = ""
    while True:
        found = connection.execute(select(func.min(table.c.key_id)).where(table.c.key_id > last)).scalar()
        if found is None:
            return
        yield found
        last = found


def rekey(database: Database, keys: StateKeys | None) -> int:
    """Encrypts every row that the current key did not encrypt, and returns how many there were.

    Raises:
        EncryptionError: there are no keys, or a row cannot be decrypted; rows before it are done.
    """
    if keys is None:
        raise EncryptionError("The store was opened without keys, so there is none to encrypt with. Set DELTAMEM_KEYS.")
    return sum(_rekey_table(database, keys, *encrypted) for encrypted in _ENCRYPTED)


def _rekey_table(database: Database, keys: StateKeys, table: Table, number: str, column: str, bound: str) -> int:
    def encrypt(connection: Connection, row: Row[Any]) -> int:
        place, old = Place(row.tenant, row.session), row._mapping
        context = row_context(*place, old[number], bound)
        # Rows from before there were keys are the ones that only rotation may take in.
        plain = old[column] if row.key_id is None else unseal(keys, row.key_id, old[column], context)
        key_id, data = seal(keys, plain, context)
        here = update(table).where(place.within(table), table.c[number] == old[number])
        return connection.execute(here.values({"key_id": key_id, column: data})).rowcount

    stale = or_(table.c.key_id.is_(None), table.c.key_id != keys.current)
    return _change(database, table, stale, ENCRYPTED_AT_ONCE, encrypt)


def _change(
    database: Database,
    table: Table,
    where: ColumnElement[bool],
    at_once: int,
    change: Callable[[Connection, Row[Any]], int],
) -> int:
    """Changes rows in the order of their key, so many in a transaction; returns the sum of what the changes return."""
    wanted = select(table).where(where).order_by(*table.primary_key).limit(at_once).with_for_update()
    done, last = 0, None
    while True:
        further = wanted if last is None else wanted.where(tuple_(*table.primary_key) > last)
        with database.write() as connection:
            rows = connection.execute(further).all()
            done += sum(change(connection, row) for row in rows)
        if not rows:
            return done
        last = tuple(rows[-1]._mapping[column] for column in table.primary_key)
