"""Another past in the place of a session's last turns: nothing of the old one is left, and nothing else has changed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from deltamem.store import Commit, ConflictError, FrozenError, NotFoundError, Rewritten, SessionStore, StateKeys
from deltamem.store.schema import messages, metadata

Opened = Callable[..., SessionStore]
LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def told(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": f"Noted: {text}"}]


def turns(store: SessionStore, *texts: str, session: str = "s") -> None:
    store.create("t", session, fingerprint="f", state=b"empty")
    for number, text in enumerate(texts, 1):
        commit = Commit("t", session, parent=number, state=text.encode(), tokens=number, messages=told(text))
        store.commit(commit)


def again(text: str, tokens: int) -> Rewritten:
    return Rewritten("turn", f"after {text}".encode(), tokens, told(text), LONG_AGO + timedelta(days=tokens))


def contents(store: SessionStore, version: int | None = None) -> list[str]:
    return [one.message["content"] for one in store.messages("t", "s", version=version)][::2]


def test_a_turn_in_the_middle_is_gone_and_those_after_it_stay(store: SessionStore) -> None:
    turns(store, "one", "two", "three")
    turns(store, "two", session="other")
    done = store.rewrite("t", "s", parent=4, base=2, turns=[again("three", 2)], empty=b"empty")
    assert (done.number, done.kind, done.state, done.tokens) == (6, "turn", b"after three", 2)
    assert [(v.number, v.parent, v.origin, v.kind) for v in store.versions("t", "s")] == [
        (6, 5, None, "turn"), (5, 2, 2, "rollback"), (2, 1, None, "turn"), (1, None, None, "create"),
    ]  # fmt: skip
    assert store.load("t", "s", 5).state == store.load("t", "s", 2).state == b"one"
    assert contents(store) == ["one", "three"]
    assert contents(store, 2) == ["one"]
    log = store.messages("t", "s")
    assert [one.created for one in log[2:]] == [LONG_AGO + timedelta(days=2)] * 2
    assert [one.position for one in log] == sorted({one.position for one in log})
    with store.database.read() as connection:
        left = select(func.count()).select_from(messages).where(messages.c.session == "s")
        assert connection.execute(left).scalar_one() == 4
    assert store.messages("t", "other")[0].message["content"] == "two"
    store.commit(Commit("t", "s", parent=6, state=b"on", tokens=9, messages=told("four")))
    assert contents(store) == ["one", "three", "four"]


def test_nothing_stays_where_there_is_no_base(store: SessionStore) -> None:
    turns(store, "one", "two")
    done = store.rewrite("t", "s", parent=3, base=None, turns=[again("two", 1)], empty=b"nothing")
    assert [(v.number, v.parent, v.kind, v.tokens) for v in store.versions("t", "s")] == [
        (5, 4, "turn", 1), (4, None, "forget", 0),
    ]  # fmt: skip
    assert store.load("t", "s", 4).state == b"nothing"
    assert done.fingerprint == "f"
    assert contents(store) == ["two"]
    emptied = store.rewrite("t", "s", parent=5, base=None, turns=[], empty=b"nothing")
    assert (emptied.number, store.messages("t", "s")) == (6, ())
    assert len(store.versions("t", "s")) == 1


def test_what_is_refused_changes_nothing(store: SessionStore) -> None:
    turns(store, "one", "two")

    def rewrite(session: str = "s", parent: int = 3, base: int | None = 2) -> None:
        store.rewrite("t", session, parent=parent, base=base, turns=[again("x", 1)], empty=b"empty")

    before = store.versions("t", "s")
    with pytest.raises(ConflictError):
        rewrite(parent=2)
    with pytest.raises(NotFoundError, match="no version 9"):
        rewrite(base=9)
    with pytest.raises(NotFoundError):
        rewrite("absent")
    store.change("t", "s", frozen=True)
    with pytest.raises(FrozenError):
        rewrite()
    assert store.versions("t", "s") == before
    assert contents(store) == ["one", "two"]


def test_another_past_is_encrypted_and_kept_within_its_limit(opened: Opened) -> None:
    store = opened(keys=StateKeys.from_text(StateKeys.generate("k")), keep_messages=True, keep_versions=2)
    turns(store, "one", "two", "three")
    store.rewrite("t", "s", parent=4, base=3, turns=[again("four", 3), again("five", 4)], empty=b"empty")
    assert [v.number for v in store.versions("t", "s")] == [7, 6]
    assert contents(store) == ["one", "two", "four", "five"]
    with store.database.read() as connection:
        for name in ("deltamem_versions", "deltamem_messages"):
            key_ids = select(metadata.tables[name].c.key_id).distinct()
            assert connection.execute(key_ids).scalars().all() == ["k"]
