"""A whole store in another database, such as PostgreSQL's instead of SQLite's."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Table, exists, func, insert, select

from deltamem.store.database import Database
from deltamem.store.errors import ExistsError, InvalidError
from deltamem.store.schema import message_words, metadata, schema_version

_AT_ONCE = 500
# Every table, those that others refer to first. A search on PostgreSQL makes the words anew where it needs them.
_COPIED = tuple(table for table in metadata.sorted_tables if table not in (schema_version, message_words))


def copy(source: Database, target: Database) -> dict[str, int]:
    """Copies every row, and returns how many there were by the table's name.

    One snapshot is read and one transaction written: the target has all of it or nothing. Rows that are encrypted stay
    so, under the same keys.

    Raises:
        ExistsError: the target holds something already.
        InvalidError: the target lives in memory and would be gone with it.
    """
    if target.in_memory:
        raise InvalidError("A store in memory is gone when the command ends; name a file or a PostgreSQL database.")
    copied: Counter[str] = Counter()
    with target.write() as connection:
        for table in _COPIED:
            if connection.execute(select(exists(table.select()))).scalar_one():
                raise target.error(
                    ExistsError, f"{{store}} has rows in {table.name} already; copy into an empty database."
                )
        with closing(_rows(source)) as found:
            for table, rows in found:
                connection.execute(insert(table), rows)
                copied[table.name] += len(rows)
        if not target.is_sqlite:
            _count_on(connection)
    return {table.name: copied[table.name] for table in _COPIED}


def _rows(source: Database) -> Generator[tuple[Table, Sequence[dict[str, Any]]], None, None]:
    """The rows of every table, some at a time, from one snapshot."""
    with source.read() as connection:
        for table in _COPIED:
            wanted = select(table).execution_options(yield_per=_AT_ONCE)
            with connection.execute(wanted) as found:
                for some in found.mappings().partitions():
                    yield table, [dict(row) for row in some]


def _count_on(connection: Connection) -> None:
    """Has PostgreSQL go on from the highest number of each table that counts its rows; SQLite does so by itself."""
    for table in _COPIED:
        if "number" in table.primary_key and len(table.primary_key) == 1:
            highest = select(func.max(table.c.number)).scalar_subquery()
            sequence = func.pg_get_serial_sequence(table.name, "number")
            connection.execute(select(func.setval(sequence, highest)))
