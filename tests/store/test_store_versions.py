"""A database of every version that was ever written opens as today's, with what was in it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from deltamem.store import ApiKeys, KeyLimits, SessionStore
from deltamem.store.schema import VERSION, found_version

RECORDED = Path(__file__).parent / "recorded"
SECRETS = {
    "sqlite": "dm_dxsGGC0EZkpRgBKI0ov1QzLAoyczgbHRyS0h4i19FDY",
    "postgresql": "dm_by8-XP7eO62QAkd7fyBcxmSXZ0bDZkTpw9qu18ih4Gg",
}


def restored(url: str, version: int) -> str:
    """Fills the empty database with what that version wrote; the kind of database."""
    place = make_url(url)
    kind = place.get_backend_name()
    dump = (RECORDED / f"version-{version}-{kind}.sql").read_text()
    if kind == "sqlite":
        sqlite3.connect(str(place.database)).executescript(dump).close()
    else:
        with psycopg.connect(f"host={place.query['host']} user={place.username} dbname={place.database}") as connection:
            connection.execute(dump)  # type: ignore[call-overload]
    return kind


def tables(store: SessionStore) -> dict[str, set[str]]:
    with store.database.read() as connection:
        found = inspect(connection)
        return {
            table: {column["name"] for column in found.get_columns(table)}
            | {str(index["name"]) for index in found.get_indexes(table) if not index["unique"]}
            for table in found.get_table_names()
        }


@pytest.mark.parametrize("version", [1])
def test_an_older_store_is_as_a_new_one(version: int, url: str, opened: Callable[..., SessionStore]) -> None:
    kind = restored(url, version)
    store = opened(keep_messages=True)
    with store.database.read() as connection:
        assert found_version(connection) == VERSION
    with SessionStore.open("sqlite://") as new:
        assert tables(store) == tables(new)
    record = store.get("acme", "ravi")
    assert (record.head, record.label, record.user, record.tokens) == (2, "Ravi, support", None, 5)
    assert store.load("acme", "ravi", 1).state == b"a memory"
    assert [one.message["content"] for one in store.messages("acme", "ravi")] == ["I live in Lisbon."]
    key = ApiKeys(store).authenticate(SECRETS[kind])
    assert key is not None
    assert (key.tenant, key.scope, key.limits) == ("acme", "write", KeyLimits(60, None, 1000))
