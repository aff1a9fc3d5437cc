"""Encryption at rest: nothing readable on disk, keys that rotate, and no tampered row that is taken for a memory."""

import base64
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from deltamem.store import Commit, EncryptionError, NotFoundError, SessionStore, StateKeys
from deltamem.store.schema import KEY_INDEXES, lacks_indexes, messages, versions

Opened = Callable[..., SessionStore]
ONE, TWO = StateKeys.generate("one"), StateKeys.generate("two")
SECRET = b"the memory's bytes"


def filled(store: SessionStore) -> SessionStore:
    for tenant, session in (("t", "s"), ("t", "other"), ("u", "s")):
        store.create(tenant, session, fingerprint="f", state=SECRET, label="plain label")
        for number in (1, 2):
            said = [{"role": "user", "content": f"my canary is {tenant}{session}{number}"}]
            store.commit(Commit(tenant, session, parent=number, state=SECRET + b"%d" % number, tokens=1, messages=said))
    return store


def said(store: SessionStore, session: str = "s") -> list[str]:
    return [item.message["content"] for item in store.messages("t", session)]


def columns(store: SessionStore) -> list[bytes]:
    with store.database.read() as connection:
        return [
            *connection.execute(select(versions.c.state)).scalars(),
            *connection.execute(select(messages.c.body)).scalars(),
        ]


def test_memories_and_messages_are_ciphertext_in_the_database(opened: Opened) -> None:
    store = filled(opened(keys=StateKeys.from_text(ONE), keep_messages=True))
    stored = columns(store)
    assert len(stored) == 15
    assert not any(SECRET in data or b"canary" in data for data in stored)
    assert len({data[:12] for data in stored}) == 15
    assert store.load("t", "s").state == SECRET + b"2"
    assert said(store) == ["my canary is ts1", "my canary is ts2"]
    store.fork("t", "s", "f", version=2)
    assert (store.load("t", "f").state, said(store, "f")) == (SECRET + b"1", ["my canary is ts1"])
    store.rollback("t", "s", turns=1)
    assert (store.load("t", "s").state, said(store)) == (SECRET + b"1", ["my canary is ts1"])


def test_a_store_tells_whether_its_keys_are_those_it_was_written_with(opened: Opened) -> None:
    plain, one, two = opened(), opened(keys=StateKeys.from_text(ONE)), opened(keys=StateKeys.from_text(TWO))
    for store in (plain, one, two):
        store.check_keys()
    assert not one.has_unreadable_plain_rows()
    plain.create("t", "before", fingerprint="f", state=SECRET)
    assert [store.has_unreadable_plain_rows() for store in (plain, one, two)] == [False, True, True]
    for store in (plain, one, two):
        store.check_keys()  # what was written before there were keys is counted and can be encrypted
    one.create("t", "s", fingerprint="f", state=SECRET)
    one.check_keys()
    with pytest.raises(EncryptionError, match=r"'one', and the store was opened without keys.*new rows would be plain"):
        plain.check_keys()
    with pytest.raises(EncryptionError, match=r"'one', and this is not among the store's keys \(two\)"):
        two.check_keys()
    with pytest.raises(EncryptionError, match="another key under that id") as caught:
        opened(keys=StateKeys.from_text(StateKeys.generate("one"))).check_keys()
    assert "one" not in caught.value.public
    both = opened(keys=StateKeys.from_text(f"{TWO},{ONE}"))
    both.check_keys()
    assert both.rekey() == 2
    assert not both.has_unreadable_plain_rows()
    two.check_keys()
    with pytest.raises(EncryptionError, match="'two'"):
        one.check_keys()


def test_a_store_from_before_the_keys_had_an_index_gets_one(opened: Opened) -> None:
    store = opened()
    with store.database.write() as connection:
        for index in KEY_INDEXES.values():
            index.drop(connection)
    with opened(keys=StateKeys.from_text(ONE)).database.read() as connection:
        assert not lacks_indexes(connection)


def test_without_keys_there_is_an_error_and_not_an_empty_memory(opened: Opened) -> None:
    filled(opened(keys=StateKeys.from_text(ONE), keep_messages=True))
    store = opened()
    calls: list[Callable[[str, str], object]] = [
        store.load,
        store.messages,
        store.fork,
        lambda t, s: store.rollback(t, s, turns=1),
    ]
    for call in calls:
        with pytest.raises(EncryptionError, match="the key 'one' and the store was opened without keys"):
            call("t", "s")
    assert store.get("t", "s").label == "plain label"


def test_a_missing_and_a_wrong_key_are_named(opened: Opened) -> None:
    filled(opened(keys=StateKeys.from_text(ONE)))
    with pytest.raises(EncryptionError, match=r"the key 'one', which is not among the store's keys \(two\)"):
        opened(keys=StateKeys.from_text(TWO)).load("t", "s")
    with pytest.raises(EncryptionError, match="does not decrypt with the key 'one'"):
        opened(keys=StateKeys.from_text(StateKeys.generate("one"))).load("t", "s")


def test_keys_rotate(opened: Opened) -> None:
    filled(opened(keys=StateKeys.from_text(ONE), keep_messages=True))
    both = opened(keys=StateKeys.from_text(f"{TWO}, {ONE}"), keep_messages=True)
    both.commit(Commit("t", "s", parent=3, state=b"newer", tokens=2))
    old = columns(both)
    assert both.rekey() == 15
    assert both.rekey() == 0
    assert len(set(columns(both)) - set(old)) == 15
    store = opened(keys=StateKeys.from_text(TWO))
    assert [store.load("t", "s", n).state for n in (1, 3, 4)] == [SECRET, SECRET + b"2", b"newer"]
    assert said(store) == ["my canary is ts1", "my canary is ts2"]


def test_many_rows_are_rotated_in_batches(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(opened(keys=StateKeys.from_text(ONE), keep_messages=True))
    monkeypatch.setattr("deltamem.store.upkeep.ENCRYPTED_AT_ONCE", 2)
    assert opened(keys=StateKeys.from_text(f"{TWO},{ONE}")).rekey() == 15
    assert said(opened(keys=StateKeys.from_text(TWO)), "other") == ["my canary is tother1", "my canary is tother2"]


def test_rows_from_before_there_were_keys_wait_for_the_rotation(opened: Opened) -> None:
    filled(opened(keep_messages=True))
    store = opened(keys=StateKeys.from_text(ONE))
    with pytest.raises(EncryptionError, match=r"not encrypted.*SessionStore\.rekey"):
        store.load("t", "s")
    assert store.rekey() == 15
    assert store.load("t", "s").state == SECRET + b"2"
    with pytest.raises(EncryptionError, match="without keys"):
        opened().rekey()


@pytest.mark.parametrize("place", [0, 11, 12, 20, -1])
def test_no_changed_byte_goes_unnoticed(opened: Opened, place: int) -> None:
    store = filled(opened(keys=StateKeys.from_text(ONE), keep_messages=True))
    for table, column, read in ((versions, "state", store.load), (messages, "body", store.messages)):
        with store.database.write() as connection:
            data = bytearray(connection.execute(select(table.c[column]).limit(1)).scalar_one())
            data[place] ^= 1
            connection.execute(update(table).values({column: bytes(data)}))
        with pytest.raises(EncryptionError, match="or the row was changed or moved"):
            read("t", "s")  # type: ignore[operator]


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 28])
def test_a_cut_row_is_no_memory(opened: Opened, data: bytes) -> None:
    store = filled(opened(keys=StateKeys.from_text(ONE)))
    with store.database.write() as connection:
        connection.execute(update(versions).values(state=data))
    with pytest.raises(EncryptionError):
        store.load("t", "s")


@pytest.mark.parametrize("source", [("u", "s", 3), ("t", "other", 3), ("t", "s", 2)])
def test_a_row_put_in_anothers_place_is_noticed(opened: Opened, source: tuple[str, str, int]) -> None:
    store = filled(opened(keys=StateKeys.from_text(ONE)))
    here = [versions.c.tenant, versions.c.session, versions.c.number]
    with store.database.write() as connection:
        taken = select(versions.c.state).where(*(c == v for c, v in zip(here, source, strict=True)))
        moved = update(versions).where(*(c == v for c, v in zip(here, ("t", "s", 3), strict=True)))
        connection.execute(moved.values(state=connection.execute(taken).scalar_one()))
    with pytest.raises(EncryptionError, match="changed or moved"):
        store.load("t", "s")


def test_a_plain_row_put_into_an_encrypted_store_is_refused(opened: Opened) -> None:
    store = filled(opened(keys=StateKeys.from_text(ONE)))
    with store.database.write() as connection:
        connection.execute(update(versions).values(state=b"forged", key_id=None))
    with pytest.raises(EncryptionError, match="someone put it into the database"):
        store.load("t", "s")


def test_a_broken_row_harms_no_other(opened: Opened) -> None:
    store = filled(opened(keys=StateKeys.from_text(ONE)))
    with store.database.write() as connection:
        connection.execute(update(versions).where(versions.c.number == 3).values(state=b"x" * 40))
    with pytest.raises(EncryptionError):
        store.load("t", "s")
    assert store.rollback("t", "s", version=2).state == SECRET + b"1"
    assert store.load("t", "s").number == 4
    store.delete("t", "s")
    with pytest.raises(NotFoundError):
        store.load("t", "s")


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELTAMEM_KEYS", raising=False)
    assert StateKeys.from_environment() is None
    monkeypatch.setenv("DELTAMEM_KEYS", f"{TWO},{ONE}")
    keys = StateKeys.from_environment()
    assert keys is not None
    assert keys.current == "two"
    assert repr(keys) == "StateKeys(two, one)"
    monkeypatch.setenv("DELTAMEM_KEYS", "one:c2hvcnQ=")
    with pytest.raises(EncryptionError, match="DELTAMEM_KEYS: Key 'one' has 5 bytes; AES-256 takes 32"):
        StateKeys.from_environment()


@pytest.mark.parametrize(
    "text",
    ["x", "one:", ":", "one:***", f"{ONE},", f"{ONE},{ONE}", "a b:" + ONE[4:], ONE[4:]],
    ids=["word", "no key", "neither", "no base64", "comma", "twice", "blank in name", "no name"],
)
def test_malformed_keys_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(EncryptionError) as error:
        StateKeys.from_text(text)
    assert base64.b64decode(ONE[4:]).hex() not in str(error.value)
    assert ONE[4:] not in str(error.value)
