"""Encrypting every row anew with the current key."""

from typing import Any

from sqlalchemy import Connection, Row, Table, or_, select, tuple_, update

from deltamem.store.encryption import StateKeys, row_context, seal, unseal
from deltamem.store.engine import Database
from deltamem.store.errors import EncryptionError
from deltamem.store.schema import Place, messages, versions

_BATCH = 200
# Each table's number within a session, its encrypted column, and the name that the ciphertext is bound to.
_ENCRYPTED = ((versions, "number", "state", "state"), (messages, "position", "body", "message"))


def rekey(database: Database, keys: StateKeys | None) -> int:
    """Encrypts every row that the current key did not encrypt, and returns how many there were.

    Raises:
        EncryptionError: there are no keys, or a row cannot be decrypted; rows before it are done.
    """
    if keys is None:
        raise EncryptionError("The store was opened without keys, so there is none to encrypt with.")
    done = 0
    for table, number, column, bound in _ENCRYPTED:
        last: tuple[str, str, int] | None = None
        while True:
            with database.write() as connection:
                rows = _stale(connection, keys, table, number, last)
                for row in rows:
                    _encrypt(connection, keys, table, row._mapping, number, column, bound)
            if not rows:
                break
            done += len(rows)
            last = (rows[-1].tenant, rows[-1].session, rows[-1]._mapping[number])
    return done


def _stale(
    connection: Connection, keys: StateKeys, table: Table, number: str, last: tuple[str, str, int] | None
) -> list[Row[Any]]:
    place = (table.c.tenant, table.c.session, table.c[number])
    wanted = select(table).where(or_(table.c.key_id.is_(None), table.c.key_id != keys.current))
    if last is not None:
        wanted = wanted.where(tuple_(*place) > last)
    return list(connection.execute(wanted.order_by(*place).limit(_BATCH).with_for_update()))


def _encrypt(
    connection: Connection, keys: StateKeys, table: Table, row: Any, number: str, column: str, bound: str
) -> None:
    place = Place(row["tenant"], row["session"])
    context = row_context(*place, row[number], bound)
    # Rows from before there were keys are the ones that only rotation may take in.
    plain = row[column] if row["key_id"] is None else unseal(keys, row["key_id"], row[column], context)
    key_id, data = seal(keys, plain, context)
    here = (place.within(table), table.c[number] == row[number])
    connection.execute(update(table).where(*here).values({"key_id": key_id, column: data}))
