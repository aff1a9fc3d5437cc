"""Sessions, versions, forks and rollbacks are rows that come back as they were."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from deltamem.store import (
    Commit,
    ConflictError,
    ExistsError,
    FingerprintError,
    FrozenError,
    InvalidError,
    NotFoundError,
    SessionStore,
    StoreError,
)

Opened = Callable[..., SessionStore]
A, B = "a" * 64, "b" * 64


def begin(store: SessionStore, session: str = "s", tenant: str = "t") -> None:
    store.create(tenant, session, fingerprint=A, state=b"empty")


def say(store: SessionStore, text: str, session: str = "s", kind: str = "turn", **more: str) -> int:
    """Commits a memory that is the text, with the text as its message; the new version's number."""
    parent = store.get("t", session).head
    message = {"role": "user", "content": text}
    return store.commit(
        Commit("t", session, parent=parent, state=text.encode(), tokens=parent, kind=kind, messages=[message], **more)
    ).number


def log(store: SessionStore, session: str = "s", **which: int) -> list[str]:
    return [item.message["content"] for item in store.messages("t", session, **which)]


def test_a_session_comes_back_as_it_was_made(store: SessionStore, opened: Opened) -> None:
    expires = datetime.now(UTC) + timedelta(days=1)
    made = store.create("t", "s", fingerprint=A, state=b"\0\xff", tokens=7, label="Zoë’s", expires=expires)
    again = opened()
    assert again.get("t", "s") == made
    assert (made.head, made.tokens, made.label, made.expires, made.frozen) == (1, 7, "Zoë’s", expires, False)
    version = again.load("t", "s", expect=A)
    assert (version.number, version.parent, version.kind, version.tokens) == (1, None, "create", 7)
    assert version.state == b"\0\xff"
    assert version.created == made.created == made.updated
    assert abs(datetime.now(UTC) - made.created) < timedelta(minutes=1)


def test_a_session_without_a_name_gets_one(store: SessionStore) -> None:
    names = {store.create("t", fingerprint=A, state=b"x").session for _ in range(3)}
    assert len(names) == 3
    assert store.load("t", names.pop()).state == b"x"


def test_a_name_is_taken_once_within_a_tenant(store: SessionStore) -> None:
    begin(store)
    with pytest.raises(ExistsError, match="'s' already"):
        begin(store)
    begin(store, tenant="u")


def test_another_tenants_session_looks_like_none(store: SessionStore) -> None:
    begin(store)
    calls: list[Callable[[str, str], object]] = [
        store.get,
        store.load,
        store.versions,
        store.messages,
        store.fork,
        lambda t, s: store.change(t, s, frozen=True),
        store.survey,
        store.prune,
        store.delete,
        lambda t, s: store.load(t, s, 1),
        lambda t, s: store.rollback(t, s, version=1),
        lambda t, s: store.change(t, s, label="x"),
        lambda t, s: store.change(t, s, expires=None),
        lambda t, s: store.commit(Commit(t, s, parent=1, state=b"x", tokens=0)),
    ]
    for call in calls:
        with pytest.raises(NotFoundError) as theirs:
            call("u", "s")
        with pytest.raises(NotFoundError) as nobodys:
            call("u", "absent")
        assert str(theirs.value).replace("'s'", "'absent'") == str(nobodys.value)
    assert store.list("u").sessions == ()
    assert store.load("t", "s").state == b"empty"


def test_a_commit_follows_its_parent(store: SessionStore) -> None:
    begin(store)
    assert [say(store, text) for text in ("one", "two")] == [2, 3]
    record = store.get("t", "s")
    assert (record.head, record.tokens, record.fingerprint) == (3, 2, A)
    assert record.updated > record.created
    assert [(v.number, v.parent, v.kind) for v in store.versions("t", "s")] == [
        (3, 2, "turn"),
        (2, 1, "turn"),
        (1, None, "create"),
    ]
    assert [store.load("t", "s", n).state for n in (1, 2, 3)] == [b"empty", b"one", b"two"]
    assert [v.number for v in store.versions("t", "s", limit=1, before=3)] == [2]


def test_a_stale_commit_is_a_conflict_and_changes_nothing(store: SessionStore) -> None:
    begin(store)
    say(store, "one")
    before = (store.get("t", "s"), store.versions("t", "s"), log(store))
    for parent in (1, 3):
        with pytest.raises(ConflictError, match=f"at version 2 and this write started from version {parent}") as error:
            store.commit(
                Commit("t", "s", parent=parent, state=b"x", tokens=1, messages=[{"role": "user", "content": "x"}])
            )
        assert error.value.head == 2
    assert (store.get("t", "s"), store.versions("t", "s"), log(store)) == before


def test_a_frozen_session_is_read_and_forked_but_not_written(store: SessionStore) -> None:
    begin(store)
    say(store, "one")
    store.change("t", "s", frozen=True)
    assert store.get("t", "s").frozen
    with pytest.raises(FrozenError, match="Unfreeze it, or fork it"):
        say(store, "two")
    with pytest.raises(FrozenError):
        store.rollback("t", "s", version=1)
    assert store.load("t", "s").state == b"one"
    assert not store.fork("t", "s", "f").frozen
    store.change("t", "s", frozen=False)
    say(store, "two")


def test_a_fork_is_a_copy_that_goes_its_own_way(store: SessionStore) -> None:
    begin(store)
    for text in ("one", "two", "three"):
        say(store, text)
    fork = store.fork("t", "s", "f", version=3, label="copy")
    assert (fork.head, fork.origin, fork.label, fork.tokens) == (1, ("s", 3), "copy", 2)
    version = store.load("t", "f")
    assert (version.state, version.kind, version.origin) == (b"two", "fork", 3)
    assert log(store, "f") == ["one", "two"]
    say(store, "other", "f")
    say(store, "four")
    assert log(store) == ["one", "two", "three", "four"]
    store.delete("t", "s")
    assert log(store, "f") == ["one", "two", "other"]
    assert store.load("t", "f").state == b"other"
    with pytest.raises(ExistsError):
        store.fork("t", "f", "f")
    assert store.load("t", store.fork("t", "f").session).state == b"other"


def test_a_rollback_is_a_new_version_and_keeps_what_it_undoes(store: SessionStore) -> None:
    begin(store)
    for text in ("one", "two", "three"):
        say(store, text)
    back = store.rollback("t", "s", version=2)
    assert (back.number, back.parent, back.origin, back.kind, back.state) == (5, 4, 2, "rollback", b"one")
    assert store.load("t", "s") == back
    assert log(store) == ["one"]
    assert log(store, version=4) == ["one", "two", "three"]
    say(store, "other")
    assert log(store) == ["one", "other"]
    assert store.rollback("t", "s", version=4).state == b"three"
    assert log(store) == ["one", "two", "three"]


def test_turns_are_undone_along_the_history_of_the_head(store: SessionStore) -> None:
    begin(store)
    say(store, "one")
    say(store, "document", kind="observe")
    say(store, "two")
    say(store, "another", kind="observe")
    assert store.rollback("t", "s", turns=1).state == b"document"
    assert store.rollback("t", "s", turns=1).state == b"empty"
    with pytest.raises(InvalidError, match="cannot go back 1 turn: none of them are kept"):
        store.rollback("t", "s", turns=1)
    say(store, "three")
    say(store, "four")
    assert store.rollback("t", "s", turns=2).state == b"empty"
    assert store.rollback("t", "s", version=5).state == b"another"
    assert store.rollback("t", "s", turns=2).state == b"empty"


@pytest.mark.parametrize("which", [{}, {"version": 1, "turns": 1}, {"turns": 0}, {"version": 0}, {"turns": True - 2}])
def test_a_rollback_needs_one_aim(store: SessionStore, which: dict[str, int]) -> None:
    begin(store)
    with pytest.raises(InvalidError):
        store.rollback("t", "s", **which)


def test_a_rollback_can_be_told_what_it_undoes(store: SessionStore) -> None:
    begin(store)
    say(store, "one")
    with pytest.raises(ConflictError):
        store.rollback("t", "s", version=1, parent=1)
    assert store.rollback("t", "s", version=1, parent=2).number == 3


def test_a_version_that_is_not_there_is_named(store: SessionStore) -> None:
    begin(store)
    say(store, "one")
    for call in (store.load, store.fork, store.rollback, store.messages):
        with pytest.raises(NotFoundError, match="no version 9: 1 to 2 are kept"):
            call("t", "s", version=9)  # type: ignore[operator]


def test_another_adapters_memory_is_refused_with_an_explanation(store: SessionStore) -> None:
    begin(store)
    with pytest.raises(FingerprintError, match=r"written by another adapter \(aaaaaaaaaaaa…\).*start fresh"):
        store.load("t", "s", expect=B)
    with pytest.raises(FingerprintError, match="Start fresh with the kind forget or import"):
        say(store, "one", fingerprint=B)
    assert say(store, "new", kind="forget", fingerprint=B) == 2
    assert store.load("t", "s", expect=B).state == b"new"
    assert say(store, "next", fingerprint=B) == 3
    assert store.rollback("t", "s", version=1).fingerprint == A
    assert store.get("t", "s").fingerprint == A


def test_the_log_begins_anew_where_the_memory_does(store: SessionStore) -> None:
    begin(store)
    say(store, "secret")
    say(store, "hello", kind="forget")
    assert log(store) == ["hello"]
    assert log(store, version=2) == ["secret"]
    store.prune("t", "s")
    assert [v.number for v in store.versions("t", "s")] == [3]
    assert [m.position for m in store.messages("t", "s")] == [2]
    store.rollback("t", "s", version=3)
    assert log(store) == ["hello"]


def test_messages_come_by_pages_from_the_end(store: SessionStore) -> None:
    begin(store)
    for number in range(7):
        say(store, str(number))
    page = store.messages("t", "s", limit=3)
    assert [m.message["content"] for m in page] == ["4", "5", "6"]
    page = store.messages("t", "s", limit=3, before=page[0].position)
    assert [m.message["content"] for m in page] == ["1", "2", "3"]
    page = store.messages("t", "s", limit=3, before=page[0].position)
    assert [m.message["content"] for m in page] == ["0"]
    assert store.messages("t", "s", before=page[0].position) == ()
    assert store.messages("t", "s", before=99) == ()


def test_a_message_is_any_json(store: SessionStore) -> None:
    begin(store)
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "arguments": {"π": [1.5, True]}}]}
    odd = {"role": "user", "content": "nul \0, half a pair \ud83d, 😀"}
    store.commit(Commit("t", "s", parent=1, state=b"x", tokens=0, messages=[call, odd]))
    found = store.messages("t", "s")
    assert [m.message for m in found] == [call, odd]
    assert [(m.position, m.version) for m in found] == [(1, 2), (2, 2)]
    for bad in ("text", {"content": b"bytes"}, {"content": float("nan")}):
        with pytest.raises(InvalidError, match="Message 1 "):
            store.commit(Commit("t", "s", parent=2, state=b"x", tokens=0, messages=[call, bad]))  # type: ignore[list-item]
    assert store.get("t", "s").head == 2


def test_a_store_that_keeps_no_messages_has_none(opened: Opened) -> None:
    store = opened()
    begin(store)
    say(store, "private")
    assert store.messages("t", "s") == ()


def test_old_versions_go_and_forks_of_them_stay(opened: Opened) -> None:
    store = opened(keep_messages=True, keep_versions=3)
    begin(store)
    say(store, "one")
    store.fork("t", "s", "f")
    for text in ("two", "three", "four", "five"):
        say(store, text)
    assert [v.number for v in store.versions("t", "s")] == [6, 5, 4]
    assert store.load("t", "f").state == b"one"
    assert log(store) == ["one", "two", "three", "four", "five"]
    with pytest.raises(NotFoundError, match="no version 3: 4 to 6 are kept"):
        store.rollback("t", "s", version=3)
    assert store.rollback("t", "s", turns=2).state == b"three"
    with pytest.raises(InvalidError, match="none of them are kept"):
        store.rollback("t", "s", turns=1)
    for text in ("six", "seven", "eight"):
        say(store, text)
    assert log(store) == ["one", "two", "three", "six", "seven", "eight"]
    # What the rollback undid went when the last version that had it did.
    assert [m.position for m in store.messages("t", "s")] == [1, 2, 3, 6, 7, 8]
    assert store.messages("t", "s", before=5) == ()


def test_one_version_is_enough(opened: Opened) -> None:
    store = opened(keep_versions=1)
    begin(store)
    for text in ("one", "two"):
        say(store, text)
    assert [v.number for v in store.versions("t", "s")] == [3]
    assert store.load("t", "s").state == b"two"


def test_all_versions_are_kept_if_wanted(opened: Opened) -> None:
    store = opened(keep_versions=None)
    begin(store)
    for number in range(30):
        say(store, str(number))
    assert len(store.versions("t", "s")) == 31
    with pytest.raises(InvalidError, match="at least 1"):
        opened(keep_versions=0)


def test_a_survey_is_of_one_moment(store: SessionStore) -> None:
    begin(store)
    say(store, "one")
    assert store.survey("t", "s") == (store.get("t", "s"), store.load("t", "s"), 2)


def test_changes_are_made_together_or_not_at_all(store: SessionStore) -> None:
    begin(store)
    expires = datetime.now(UTC) + timedelta(hours=1)
    changed = store.change("t", "s", label="Ravi", expires=expires, frozen=True)
    assert changed == store.get("t", "s")
    assert (changed.label, changed.expires, changed.frozen) == ("Ravi", expires, True)
    with pytest.raises(InvalidError):
        store.change("t", "s", label="Mina", expires=datetime(2030, 1, 1))
    assert store.change("t", "s") == changed
    assert store.change("t", "s", label=None) == replace(changed, label=None) == store.get("t", "s")


def test_what_has_expired_is_gone_before_it_is_purged(store: SessionStore) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    begin(store)
    begin(store, "live")
    store.change("t", "s", expires=past)
    with pytest.raises(NotFoundError):
        store.load("t", "s")
    assert [r.session for r in store.list("t").sessions] == ["live"]
    begin(store)
    assert store.versions("t", "s")[0].number == 1
    store.create("t", "later", fingerprint=A, state=b"x", expires=datetime.now(UTC) + timedelta(hours=1))
    assert store.purge_expired() == 0
    assert store.purge_expired(datetime.now(UTC) + timedelta(hours=2)) == 1
    assert {r.session for r in store.list("t").sessions} == {"live", "s"}
    store.change("t", "live", expires=past)
    assert store.purge_expired() == 1


def test_times_have_a_zone(store: SessionStore) -> None:
    begin(store)
    with pytest.raises(InvalidError, match="needs a time zone"):
        store.change("t", "s", expires=datetime(2030, 1, 1))
    elsewhere = datetime(2100, 1, 1, 5, tzinfo=UTC).astimezone()
    store.change("t", "s", expires=elsewhere)
    assert store.get("t", "s").expires == elsewhere


def test_a_closed_store_says_so(opened: Opened) -> None:
    with opened() as store:
        begin(store)
        store.check()
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.get("t", "s")


def test_a_store_in_memory_is_one_for_all_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with SessionStore.open("sqlite://", keep_messages=True) as store, ThreadPoolExecutor(8) as threads:
        begin(store)
        list(threads.map(lambda n: begin(store, f"s{n}"), range(20)))
        assert len(store.list("t").sessions) == 21
        say(store, "one")
        assert log(store) == ["one"]
    with SessionStore.open("sqlite://") as other:
        assert other.list("t").sessions == ()
