"""What operators do: counting, trimming, and opening only what is there."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from deltamem.store import ApiKeys, Commit, InvalidError, NotFoundError, SessionStore, StateKeys
from deltamem.store.schema import VERSION

Opened = Callable[..., SessionStore]


def turns(store: SessionStore, tenant: str, session: str, count: int) -> None:
    store.create(tenant, session, fingerprint="f", state=b"12345678")
    for number in range(1, count + 1):
        said = [{"role": "user", "content": f"{number}"}]
        store.commit(Commit(tenant, session, parent=number, state=b"12345678", tokens=number, messages=said))


def test_everything_is_counted_for_all_and_for_one_tenant(opened: Opened) -> None:
    store = opened(keep_messages=True)
    turns(store, "t", "a", 2)
    turns(store, "t", "b", 0)
    store.change("t", "b", expires=datetime.now(UTC) - timedelta(seconds=1))
    turns(store, "u", "a", 1)
    ApiKeys(store).create("u")
    ApiKeys(store).revoke(ApiKeys(store).create("t").record.id)
    found = store.stats()
    assert (found.tenants, found.sessions, found.expired) == (2, 3, 1)
    assert (found.versions, found.messages, found.state_bytes) == (6, 3, 48)
    assert (found.api_keys, found.schema_version, found.rows_by_key) == (1, VERSION, {None: 9})
    assert found.message_bytes == 3 * len('{"role": "user", "content": "1"}')
    only = store.stats("u")
    assert (only.tenants, only.sessions, only.versions, only.messages, only.api_keys) == (1, 1, 2, 1, 1)
    nobody = store.stats("nobody")
    assert (nobody.tenants, nobody.versions, nobody.state_bytes, nobody.rows_by_key) == (0, 0, 0, {})


def test_rows_are_counted_by_their_key(opened: Opened) -> None:
    one, two = StateKeys.generate("one"), StateKeys.generate("two")
    turns(opened(keys=StateKeys.from_text(one), keep_messages=True), "t", "a", 2)
    store = opened(keys=StateKeys.from_text(f"{two},{one}"), keep_messages=True)
    turns(store, "t", "b", 0)
    assert store.stats().rows_by_key == {"one": 5, "two": 1}
    store.rekey()
    assert store.stats().rows_by_key == {"two": 6}


def test_sessions_are_trimmed_to_their_last_versions(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltamem.store.upkeep.TRIMMED_AT_ONCE", 2)
    store = opened(keep_messages=True, keep_versions=None)
    for name, count in (("a", 4), ("b", 1), ("c", 5), ("d", 3)):
        turns(store, "t", name, count)
    turns(store, "t", "gone", 4)
    store.change("t", "gone", expires=datetime.now(UTC) - timedelta(seconds=1))
    store.commit(Commit("t", "d", parent=4, state=b"empty", tokens=0, kind="forget", fingerprint="f"))
    assert store.surplus(2) == 3 + 4 + 3
    assert store.trim(2) == 10
    assert (store.surplus(2), store.trim(2)) == (0, 0)
    assert [v.number for v in store.versions("t", "c")] == [6, 5]
    assert [v.number for v in store.versions("t", "b")] == [2, 1]
    assert [m.message["content"] for m in store.messages("t", "c")] == ["1", "2", "3", "4", "5"]
    store.commit(Commit("t", "d", parent=5, state=b"on", tokens=0))
    store.commit(Commit("t", "d", parent=6, state=b"on", tokens=0))
    assert store.trim(1) > 0
    assert store.stats().messages == 4 + 1 + 5 + 4  # what came before the forgetting went with its last version
    for keep in (0, -1):
        with pytest.raises(InvalidError, match="keep"):
            store.trim(keep)


def test_what_has_expired_is_purged_by_small_transactions(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltamem.store.upkeep.PURGED_AT_ONCE", 2)
    store = opened(keep_messages=True)
    for number in range(5):
        turns(store, f"t{number}", "gone", 1)
        store.change(f"t{number}", "gone", expires=datetime.now(UTC) - timedelta(seconds=1))
    turns(store, "t0", "kept", 1)
    assert (store.count(), store.stats().sessions) == (1, 6)
    transactions: list[object] = []
    event.listen(store.database.engine, "commit", transactions.append)
    assert store.purge_expired() == 5
    assert len(transactions) >= 3
    assert (store.count(), store.stats().sessions, store.stats().messages) == (1, 1, 1)


def test_only_a_store_that_is_there_is_opened(url: str, tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(NotFoundError, match="no store"):
        SessionStore.open(url, create=False)
    assert not (tmp_path / "sessions.db").exists()
    opened()
    SessionStore.open(url, create=False).close()


def test_a_copy_of_a_running_store_is_a_backup(tmp_path: Path) -> None:
    with SessionStore.open(f"sqlite:///{tmp_path / 'sessions.db'}") as store:
        store.create("t", "before", fingerprint="f", state=b"x")
        with closing(sqlite3.connect(tmp_path / "sessions.db")) as database:
            database.execute(f"VACUUM INTO '{tmp_path / 'copy.db'}'")
        store.create("t", "after", fingerprint="f", state=b"x")
    with SessionStore.open(f"sqlite:///{tmp_path / 'copy.db'}", create=False) as copy:
        assert [one.session for one in copy.list("t").sessions] == ["before"]
        copy.create("t", "after", fingerprint="f", state=b"x")
