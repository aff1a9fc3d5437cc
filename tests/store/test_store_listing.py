"""Listing by pages, searching by label, and names that are refused before they reach the database."""

import base64
import json
import string
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem.store import Commit, InvalidError, SessionStore
from deltamem.store.checks import check_label, check_name

ALPHABET = string.ascii_letters + string.digits + "._:-"
LABELS = ["100% sure", "1000 sure", "snake_case", "snakeXcase", "a/b", "STRASSE", "Straße", "ﬁne Ünïcode", None]


def labelled(store: SessionStore) -> None:
    for number, label in enumerate(LABELS):
        store.create("t", f"s{number}", fingerprint="f", state=b"x", label=label)
    store.create("u", "other", fingerprint="f", state=b"x", label="100% sure")


def pages(store: SessionStore, limit: int, **which: str) -> list[list[str]]:
    found, after = [], None
    while True:
        page = store.list("t", limit=limit, after=after, **which)  # type: ignore[arg-type]
        found.append([record.session for record in page.sessions])
        if (after := page.after) is None:
            return found


@pytest.mark.parametrize("order", ["updated", "created"])
def test_pages_hold_every_session_once_and_the_latest_first(store: SessionStore, order: str) -> None:
    labelled(store)
    store.commit(Commit("t", "s3", parent=1, state=b"y", tokens=1))
    wanted = [f"s{n}" for n in reversed(range(len(LABELS)))]
    if order == "updated":
        wanted = ["s3", *(name for name in wanted if name != "s3")]
    for limit in (1, 4, 9, 50):
        found = pages(store, limit, order=order)
        assert list(chain(*found)) == wanted
        assert all(len(page) == limit for page in found[:-1])


def test_sessions_of_the_same_moment_are_all_listed(store: SessionStore) -> None:
    from sqlalchemy import update

    from deltamem.store.schema import sessions

    names = ["a", "B", "c-d", "c.d", "c:d", "c_d", "Z", "1"]
    for name in names:
        store.create("t", name, fingerprint="f", state=b"x")
    with store.database.write() as connection:
        connection.execute(update(sessions).values(updated=store.get("t", "a").created))
    # By bytes, whatever the database's language.
    assert list(chain(*pages(store, 3))) == sorted(names, reverse=True)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("SURE", {0, 1}),
        ("100%", {0}),
        ("e_c", {2}),
        ("a/B", {4}),
        ("strasse", {5, 6}),
        ("ß", {5, 6}),
        ("FINE ünï", {7}),
        ("'; --", set()),
        ("\\", set()),
    ],
)
def test_labels_are_searched_without_case_or_wildcards(store: SessionStore, search: str, found: set[int]) -> None:
    labelled(store)
    assert {r.session for r in store.list("t", search=search).sessions} == {f"s{n}" for n in found}


def test_a_label_is_found_exactly_and_can_be_changed(store: SessionStore) -> None:
    labelled(store)
    assert [r.session for r in store.list("t", label="Straße").sessions] == ["s6"]
    store.change("t", "s6", label="weg")
    assert store.list("t", label="Straße").sessions == ()
    assert [r.label for r in store.list("t", search="WEG").sessions] == ["weg"]
    store.change("t", "s6", label=None)
    assert store.list("t", search="weg").sessions == ()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!",
        "e30=",
        "ü",
        "\0",
        *(
            base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
            for value in (
                ["created", "2026-01-01T00:00:00+00:00", "s"],
                ["updated", "2026-01-01T00:00:00", "s"],
                ["updated", "yesterday", "s"],
                ["updated", "2026-01-01T00:00:00+00:00", 1],
                ["updated", "2026-01-01T00:00:00+00:00", "\0"],
                ["updated", 1, "s"],
            )
        ),
    ],
)
def test_a_forged_cursor_is_refused(memory: SessionStore, cursor: str) -> None:
    with pytest.raises(InvalidError, match="not the cursor"):
        memory.list("t", after=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_a_size(memory: SessionStore, limit: int) -> None:
    with pytest.raises(InvalidError, match="1 to 1000"):
        memory.list("t", limit=limit)


BAD_NAMES = ["", ".", "..", "a/b", "../x", "a b", "a\n", "a\0", "é", "a" * 129, "%2e", "'; DROP TABLE x", None, 3, b"a"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_and_shown_safely(memory: SessionStore, name: str) -> None:
    for call in (
        lambda: memory.create("t", name or "/", fingerprint="f", state=b"x"),
        lambda: memory.create(name, "s", fingerprint="f", state=b"x"),
        lambda: memory.get("t", name),
        lambda: memory.load(name, "s"),
        lambda: memory.delete("t", name),
        lambda: memory.delete_tenant(name),
        lambda: memory.list(name),
    ):
        with pytest.raises(InvalidError, match=r"is not a valid (session|tenant) name: use 1 to 128 of") as error:
            call()
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("label", ["", "two\nlines", "\x1b[31m", "nul\0", "\ud800", "a\u2028b", "x" * 201, 5])
def test_bad_labels_are_refused_and_shown_safely(memory: SessionStore, label: str) -> None:
    with pytest.raises(InvalidError, match="label") as error:
        memory.create("t", "s", fingerprint="f", state=b"x", label=label)
    assert str(error.value).isprintable()
    with pytest.raises(InvalidError):
        memory.list("t", search=label)


@pytest.mark.parametrize(
    "change",
    [
        {"state": b""},
        {"state": "text"},
        {"tokens": -1},
        {"tokens": 2**63},
        {"tokens": "1"},
        {"parent": 0},
        {"parent": 2**31},
        {"kind": "rollback"},
        {"kind": "Turn"},
        {"kind": "a;b"},
        {"fingerprint": ""},
        {"fingerprint": "a\n"},
    ],
)
def test_bad_values_are_refused(memory: SessionStore, change: dict[str, object]) -> None:
    memory.create("t", "s", fingerprint="f", state=b"x")
    with pytest.raises(InvalidError):
        memory.commit(Commit("t", "s", **({"parent": 1, "state": b"y", "tokens": 1} | change)))  # type: ignore[arg-type]
    assert memory.load("t", "s").state == b"x"


@given(st.text(max_size=140) | st.text(ALPHABET, max_size=140))
def test_a_name_is_accepted_only_if_it_is_harmless(name: str) -> None:
    if 1 <= len(name) <= 128 and set(name) <= set(ALPHABET) and name not in (".", ".."):
        assert check_name("session", name) == name
        return
    with pytest.raises(InvalidError) as error:
        check_name("session", name)
    assert str(error.value).isprintable()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(label=st.text(min_size=1, max_size=30), data=st.data())
def test_any_part_of_any_label_finds_it(memory: SessionStore, label: str, data: st.DataObject) -> None:
    try:
        check_label(label)
    except InvalidError:
        return
    start = data.draw(st.integers(0, len(label) - 1))
    memory.delete_tenant("t")
    record = memory.create("t", "s", fingerprint="f", state=b"x", label=label)
    assert record.label == label
    # Part of a composed character is another character, so whole labels stand in for those.
    part = label[start:] if label.isascii() else label
    assert memory.list("t", search=part).sessions == (record,)
    assert memory.list("t", search=label.upper()).sessions == (record,)
