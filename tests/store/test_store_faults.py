"""Locked, full, restarted, damaged or deleted: what a store says then, and that the same store goes on afterwards."""

import importlib
import os
import re
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import writers
from postgres import Server
from sqlalchemy import Connection, event, inspect, select, text
from sqlalchemy.exc import OperationalError

from deltamem.store import (
    ApiKeys,
    Commit,
    InvalidError,
    NotFoundError,
    Rates,
    SchemaError,
    SessionStore,
    StateKeys,
    StoreError,
    TenantLimits,
    UnavailableError,
)
from deltamem.store.schema import UPGRADES, VERSION, audit, found_version, metadata, prepare

Opened = Callable[..., SessionStore]
CANARY = "the canary is vermilion"


def filled(store: SessionStore, tenant: str = "t", session: str = "s") -> SessionStore:
    store.create(tenant, session, fingerprint="f", state=b"x", label=CANARY)
    write(store, tenant, session)
    return store


def write(store: SessionStore, tenant: str = "t", session: str = "s", size: int = 1) -> int:
    parent = store.get(tenant, session).head
    said = [{"role": "user", "content": CANARY}]
    return store.commit(
        Commit(tenant, session, parent=parent, state=CANARY.encode() * size, tokens=1, messages=said)
    ).number


def sqlite_store(tmp_path: Path, **options: object) -> SessionStore:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    return SessionStore.open(url, **({"keep_messages": True} | options))  # type: ignore[arg-type]


def test_a_lock_held_too_long_is_an_error_and_then_is_not(tmp_path: Path) -> None:
    with sqlite_store(tmp_path, timeout=0.2) as store:
        filled(store)
        held = writers.process(writers.hold_sqlite_lock, str(tmp_path / "sessions.db"), 0.8)
        with held as (_, pipe):
            assert pipe.recv() == "held"
            with pytest.raises(UnavailableError, match=r"held its lock on sqlite:.* for more than 0\.2 s. Nothing was"):
                write(store)
            assert store.load("t", "s").number == 2
            assert pipe.recv() == "released"
        assert write(store) == 3


def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    with sqlite_store(tmp_path) as store:
        filled(store)
        with writers.process(writers.hold_sqlite_lock, str(tmp_path / "sessions.db"), 0.3) as (_, pipe):
            assert pipe.recv() == "held"
            assert write(store) == 3


def test_a_row_lock_held_too_long_is_an_error_and_then_is_not(server: Server) -> None:
    url = server.empty_database()
    with SessionStore.open(url, timeout=0.2) as store:
        filled(store)
        with psycopg.connect(url) as other:
            other.execute("SELECT * FROM deltamem_sessions FOR UPDATE")
            with pytest.raises(UnavailableError, match=r"held its lock on postgresql.* for more than 0\.2 s"):
                write(store)
            assert store.load("t", "s").number == 2
        assert write(store) == 3


def test_a_full_disk_is_an_error_and_then_is_not(tmp_path: Path) -> None:
    with sqlite_store(tmp_path) as store:
        filled(store)
        limit = 80

        def confine(connection: sqlite3.Connection, record: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {limit}")

        event.listen(store.database.engine, "connect", confine)
        store.database.engine.dispose()

        def fill() -> None:
            while True:
                write(store, size=1000)

        with pytest.raises(UnavailableError, match=r"The disk under .* is full. Nothing was written; free some space"):
            fill()
        head = store.get("t", "s").head
        assert [v.number for v in store.versions("t", "s")] == list(range(head, 0, -1))
        assert len(store.messages("t", "s")) == head - 1
        limit = 100_000
        store.database.engine.dispose()
        assert write(store, size=1000) == head + 1
        with store.database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_a_server_restarted_under_load_loses_nothing(server: Server) -> None:
    store = SessionStore.open(server.empty_database(), timeout=2)
    names = [f"s{n}" for n in range(4)]
    for name in names:
        store.create("t", name, fingerprint="f", state=b"0")
    acknowledged = dict.fromkeys(names, 1)
    refused: list[StoreError] = []
    done = threading.Event()

    def work(name: str) -> None:
        while not done.is_set():
            try:
                head = store.load("t", name).number
                assert head >= acknowledged[name]
                acknowledged[name] = store.commit(Commit("t", name, parent=head, state=b"%d" % head, tokens=1)).number
            except UnavailableError as error:
                refused.append(error)
                time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            time.sleep(0.2)
            server.restart()
        before = dict(acknowledged)
        deadline = time.monotonic() + 60
        while any(acknowledged[name] < before[name] + 3 for name in names) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert all(acknowledged[name] >= before[name] + 3 for name in names)
    assert refused
    assert all("cannot be used now" in str(error) and "\n" not in str(error) for error in refused)
    for name in names:
        version = store.load("t", name)
        assert acknowledged[name] <= version.number <= acknowledged[name] + 1
        assert version.state == b"%d" % (version.number - 1)
    store.close()


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql://someone:pa55word@/postgres?host={tmp_path}&connect_timeout=2"
    with pytest.raises(UnavailableError, match=r"someone:\*\*\*@.*cannot be used now") as error:
        SessionStore.open(url)
    assert "pa55word" not in str(error.value)
    assert error.value.public.startswith("The store cannot be used now.")
    assert str(tmp_path) not in error.value.public


def test_a_database_that_is_not_there_is_named(server: Server) -> None:
    with pytest.raises(UnavailableError, match='database "absent" does not exist'):
        SessionStore.open(f"postgresql://tester@/absent?host={server.folder}")


@pytest.mark.parametrize(
    "url",
    ["", "sessions.db", "mysql://u:pa55word@h/d", "sqlite+aiosqlite://", "sqlite:///file:a?uri=true", "://pa55word@"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidError, match="sqlite:///") as error:
        SessionStore.open(url)
    assert "pa55word" not in str(error.value)


def test_a_file_that_cannot_be_made_or_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does its folder exist"):
        SessionStore.open(f"sqlite:///{tmp_path}/absent/sessions.db")
    (tmp_path / "notes.txt").write_text("not a database, and long enough to look at" * 10)
    with pytest.raises(SchemaError, match="damaged or not an SQLite database"):
        SessionStore.open(f"sqlite:///{tmp_path}/notes.txt")
    assert "not a database" in (tmp_path / "notes.txt").read_text()


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    with sqlite_store(tmp_path) as store:
        filled(store)
        for _ in range(30):
            write(store, size=500)
    path = tmp_path / "sessions.db"
    data = bytearray(path.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(SchemaError, match=r"is damaged.*Restore a backup"), sqlite_store(tmp_path) as store:
        store.load("t", "s")


def test_a_newer_schema_is_refused(store: SessionStore, opened: Opened, url: str) -> None:
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE deltamem_schema SET version = {VERSION + 1}"))
    told = f"have version {VERSION + 1}; this deltamem knows up to version {VERSION}. Update deltamem"
    for call in (store.check, opened):
        with pytest.raises(SchemaError, match=re.escape(told)):
            call()
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM deltamem_schema"))
    with pytest.raises(SchemaError, match="should hold one number"):
        opened()


def test_lost_tables_are_noticed(store: SessionStore) -> None:
    store.check()
    with store.database.write() as connection:
        connection.execute(text("DROP TABLE deltamem_schema"))
    with pytest.raises(SchemaError, match="has lost its tables"):
        store.check()


def test_a_missing_message_is_noticed(store: SessionStore) -> None:
    filled(store)
    write(store)
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM deltamem_messages WHERE position = 1"))
    with pytest.raises(SchemaError, match="Message 1 of session 's' is missing"):
        store.messages("t", "s")
    assert len(store.messages("t", "s", limit=1)) == 1


def test_an_older_schema_is_brought_up_to_date_in_order_and_at_once(store: SessionStore) -> None:
    filled(store)

    def add(column: str) -> Callable[[Connection], None]:
        return lambda c: c.execute(text(f"ALTER TABLE deltamem_sessions ADD COLUMN {column} INTEGER")) and None

    def fail(connection: Connection) -> None:
        raise RuntimeError("half way")

    def found(connection: Connection) -> set[str]:
        return {column["name"] for column in inspect(connection).get_columns("deltamem_sessions")}

    with pytest.raises(RuntimeError), store.database.write() as connection:
        prepare(connection, [*UPGRADES, add("first"), fail])
    with store.database.read() as connection:
        assert found_version(connection) == VERSION
        assert "first" not in found(connection)
    with store.database.write() as connection:
        prepare(connection, [*UPGRADES, add("first"), add("second")])
    with store.database.read() as connection:
        assert found_version(connection) == VERSION + 2
        assert {"first", "second"} <= found(connection)
    assert write(store) == 3


def test_a_deleted_tenant_leaves_no_row(store: SessionStore) -> None:
    keys = ApiKeys(store)
    for tenant in ("t", "u"):
        for session in ("s", "other"):
            filled(store, tenant, session)
        keys.create(tenant)
        Rates(store).limit(tenant, TenantLimits(1))
    assert store.delete_tenant("t") == 2
    assert store.delete_tenant("t") == 0
    kept = 0
    with store.database.read() as connection:
        for table in metadata.sorted_tables:
            if "tenant" in table.c and table is not audit:
                found = {row[0] for row in connection.execute(select(table.c.tenant).distinct())}
                assert found <= {"u"}
                kept += len(found)
    assert kept > 3
    assert store.load("u", "s").state == CANARY.encode()
    assert len(keys.list()) == 1


@pytest.mark.parametrize("way", ["delete", "delete_tenant", "expire", "forget"])
def test_what_was_deleted_is_in_no_file(tmp_path: Path, way: str) -> None:
    store = filled(sqlite_store(tmp_path))
    write(store, size=300)

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert CANARY.encode() in files()
    if way == "delete":
        store.delete("t", "s")
    elif way == "delete_tenant":
        store.delete_tenant("t")
    elif way == "expire":
        store.change("t", "s", expires=store.get("t", "s").created)
        assert store.purge_expired() == 1
    else:
        store.change("t", "s", label=None)
        store.commit(Commit("t", "s", parent=3, state=b"empty", tokens=0, kind="forget"))
        store.prune("t", "s")
        assert store.load("t", "s").state == b"empty"
    assert CANARY.encode() not in files()
    store.close()


def test_deleting_keeps_no_writer_waiting_for_a_long_reader(tmp_path: Path) -> None:
    with sqlite_store(tmp_path, timeout=20) as store:
        filled(store)
        filled(store, session="gone")
        reader = sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM deltamem_sessions").fetchall()
        started = time.monotonic()
        store.delete("t", "gone")
        assert write(store) == 3
        assert time.monotonic() - started < 10
        reader.close()
        with store.database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 20_000


def test_only_the_owner_reads_the_file(tmp_path: Path) -> None:
    with sqlite_store(tmp_path) as store:
        filled(store)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}


def test_a_file_is_safe_against_power_loss(tmp_path: Path) -> None:
    with sqlite_store(tmp_path) as store, store.database.read() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        assert [connection.exec_driver_sql(f"PRAGMA {n}").scalar_one() for n in names] == ["wal", 2, 1, 1]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_moved_away_is_neither_followed_nor_made_anew(tmp_path: Path, replaced: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with sqlite_store(tmp_path) as store:
        filled(store)
        for file in tmp_path.glob("sessions.db*"):
            file.rename(elsewhere / file.name)
        if replaced:
            sqlite_store(tmp_path).close()
        for use in (lambda: write(store), lambda: store.load("t", "s"), store.check, store.database.scrub):
            with pytest.raises(UnavailableError, match="was moved, deleted or replaced"):
                use()
        assert replaced or not list(tmp_path.glob("sessions.db*"))
        for file in elsewhere.iterdir():
            file.replace(tmp_path / file.name)
        assert store.load("t", "s").number == 2
        assert write(store) == 3


def test_a_connection_opens_the_file_and_never_makes_it(tmp_path: Path) -> None:
    with sqlite_store(tmp_path) as store:
        filled(store)
        store.database.engine.dispose()
        (tmp_path / "sessions.db").unlink()
        with pytest.raises(OperationalError, match="unable to open"):
            store.database.engine.connect()
        assert not (tmp_path / "sessions.db").exists()


def test_an_unexpected_error_shows_no_data(store: SessionStore) -> None:
    filled(store)
    with store.database.write() as connection:
        connection.execute(text("ALTER TABLE deltamem_messages RENAME TO elsewhere"))
    with pytest.raises(Exception, match="deltamem_messages") as error:
        write(store)
    assert CANARY not in str(error.value)
    assert store.load("t", "s").number == 2


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ImportError, match=r"pip install .*\[serve\]"):
        StateKeys({"k": b"x" * 32})
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install .*\[postgres\]"):
        SessionStore.open("postgresql://h/d")
    for name in [name for name in sys.modules if name.startswith("deltamem.store")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"needs SQLAlchemy: pip install .*\[serve\]"):
        importlib.import_module("deltamem.store")


def test_refusals_use_up_no_connections(store: SessionStore) -> None:
    for _ in range(40):
        with pytest.raises(NotFoundError):
            store.load("t", "absent")


def test_a_connection_in_use_when_the_store_closes_is_closed_when_it_is_given_back(store: SessionStore) -> None:
    with store.database.read() as connection:
        driver: Any = connection.connection.driver_connection
        store.close()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    with pytest.raises((psycopg.OperationalError, sqlite3.ProgrammingError), match="closed"):
        driver.execute("SELECT 1")
