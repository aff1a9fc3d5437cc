"""Commits in one transaction: each by itself, all of them durable or none."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import StatementError

from deltamem.store import (
    Commit,
    ConflictError,
    FrozenError,
    InvalidError,
    NotFoundError,
    SessionStore,
    UnavailableError,
    Version,
)
from deltamem.store.versions import add

Opened = Callable[..., SessionStore]


def turn(session: str, parent: int = 1, **changes: Any) -> Commit:
    said = [{"role": "user", "content": session}]
    given = {"tenant": "t", "parent": parent, "state": session.encode(), "tokens": 1, "messages": said}
    return Commit(session=session, **{**given, **changes})


def begin(store: SessionStore, *names: str) -> None:
    for name in names:
        store.create("t", name, fingerprint="f", state=b"empty")


def test_each_commit_stands_or_falls_by_itself(store: SessionStore) -> None:
    begin(store, "a", "b", "cold", "d")
    store.change("t", "cold", frozen=True)
    wanted = [
        turn("a"),
        turn("nobody"),
        turn("b", parent=7),
        turn("cold"),
        turn("a", parent=2, state=b"second"),
        turn("a", parent=2, state=b"late"),
        turn("d", kind="no kind"),
        turn("d"),
    ]
    made = store.commit_all(wanted)
    errors = [NotFoundError, ConflictError, FrozenError, ConflictError, InvalidError]
    assert [type(one) for one in made if not isinstance(one, Version)] == errors
    assert [one.number for one in made if isinstance(one, Version)] == [2, 3, 2]
    assert store.load("t", "a").state == b"second"
    assert [m.message["content"] for m in store.messages("t", "a")] == ["a", "a"]
    for name in ("b", "cold"):
        assert store.get("t", name).head == 1
        assert store.messages("t", name) == ()
    assert store.load("t", "d") == made[-1]
    assert store.commit_all([]) == []


def test_a_session_is_made_with_its_first_turn_or_not_at_all(store: SessionStore) -> None:
    begin(store, "a")
    new = {"parent": 0, "begin": b"empty", "fingerprint": "f"}
    made = store.commit_all([turn("new", **new), turn("a", **new), turn("bad", tokens=-1, **new), turn("a")])
    assert [type(one) for one in made] == [Version, ConflictError, InvalidError, Version]
    assert [(v.number, v.kind) for v in store.versions("t", "new")] == [(2, "turn"), (1, "create")]
    assert store.load("t", "new", 1).state == b"empty"
    for wrong in ({"parent": 1}, {"parent": -1}, {"fingerprint": None}, {"kind": "no kind"}):
        with pytest.raises((NotFoundError, InvalidError)):
            store.commit(turn("bad", **{**new, **wrong}))
    with pytest.raises(NotFoundError):
        store.get("t", "bad")


def test_a_turn_that_starts_fresh_forgets_in_its_own_transaction(opened: Opened) -> None:
    store = opened(keep_messages=True, keep_versions=3)
    begin(store, "a", "cold")
    store.change("t", "cold", frozen=True)
    store.commit(turn("a"))
    fresh = {"begin": b"none", "fingerprint": "g"}
    made = store.commit_all([turn("a", parent=2, **fresh), turn("a", parent=2, **fresh), turn("cold", **fresh)])
    assert [type(one) for one in made] == [Version, ConflictError, FrozenError]
    kept = [(v.number, v.parent, v.kind, v.fingerprint) for v in store.versions("t", "a")]
    assert kept == [(4, 3, "turn", "g"), (3, 2, "forget", "g"), (2, 1, "turn", "f")]
    assert (store.load("t", "a", 3).state, store.load("t", "a", 3).tokens) == (b"none", 0)
    assert [m.version for m in store.messages("t", "a")] == [4]
    assert store.rollback("t", "a", turns=1).state == b"none"
    with pytest.raises(InvalidError):
        store.commit(turn("a", parent=5, begin=b"none", fingerprint="h", kind="no kind"))
    assert store.get("t", "a").head == 5


def test_a_broken_one_harms_no_other(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(store, "a", "b")

    def fails(connection: Any, rules: Any, commit: Commit) -> Version:
        version = add(connection, rules, commit)
        if commit.session == "b":
            connection.exec_driver_sql("SELECT nonsense FROM nowhere")
        return version

    monkeypatch.setattr("deltamem.store.sessions.add", fails)
    good, bad, lost = store.commit_all([turn("a"), turn("b"), turn("nobody")])
    assert isinstance(good, Version)
    assert isinstance(bad, StatementError)
    assert isinstance(lost, NotFoundError)
    assert (store.get("t", "a").head, store.get("t", "b").head) == (2, 1)


def test_a_full_disk_leaves_nothing_of_any(opened: Opened, url: str) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("a PostgreSQL server's disk cannot be filled here")
    store = opened(keep_messages=True)
    begin(store, "a", "b", "c")
    with store.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    made = store.commit_all([turn("a"), turn("b", state=b"x" * 40_000), turn("c")])
    assert isinstance(made[1], UnavailableError)
    assert "disk" in str(made[1])
    for name, one in zip("abc", made, strict=True):
        assert store.get("t", name).head == (2 if isinstance(one, Version) else 1)
    assert isinstance(store.commit_all([turn("b", state=b"short")])[0], Version)


def test_a_locked_store_refuses_all(opened: Opened, url: str) -> None:
    other = opened()
    begin(other, "a", "b")
    store = opened(timeout=0.2)
    with other.database.write() as connection:
        connection.exec_driver_sql("UPDATE deltamem_sessions SET frozen = frozen")
        made = store.commit_all([turn("a"), turn("b")])
    assert [type(one) for one in made] == [UnavailableError, UnavailableError]
    assert all(isinstance(one, Version) for one in store.commit_all([turn("a"), turn("b")]))
