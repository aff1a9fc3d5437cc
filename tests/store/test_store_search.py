"""What a search of a log's words finds in PostgreSQL's full text, and what becomes of words and vectors."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import text

from deltamem.store import Commit, SessionStore, StateKeys

Opened = Callable[..., SessionStore]
LISBON, TORTOISE = "I settled in Lisbon years ago.", "There is a tortoise at home."


def told(message: Mapping[str, Any]) -> str:
    return str(message["content"]) if message["role"] == "user" else ""


def tell(store: SessionStore, session: str, *texts: str, tenant: str = "t", role: str = "user") -> None:
    if session not in {one.session for one in store.list(tenant).sessions}:
        store.create(tenant, session, fingerprint="f", state=b"s")
    head = store.get(tenant, session).head
    said = [{"role": role, "content": one} for one in texts]
    store.commit(Commit(tenant, session, parent=head, state=b"s", tokens=1, messages=said))


def found(store: SessionStore, words: str, *sessions: str, tenant: str = "t", **options: Any) -> list[str] | None:
    hits = store.search(tenant, sessions or ["ravi"], words, told=told, **{"limit": 10, **options})
    return None if hits is None else [stored.message["content"] for _, stored, _ in hits]


def kept(store: SessionStore, table: str) -> int:
    with store.database.read() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM deltamem_message_{table}")).scalar_one())


@pytest.fixture
def postgresql(url: str, opened: Opened) -> SessionStore:
    if url.startswith("sqlite"):
        pytest.skip("SQLite ranks in memory")
    return opened(keep_messages=True)


def test_sqlite_and_encrypted_texts_are_not_searched_in_the_database(url: str, opened: Opened) -> None:
    keys = None if url.startswith("sqlite") else StateKeys.from_text(StateKeys.generate("k"))
    store = opened(keep_messages=True, keys=keys)
    tell(store, "ravi", LISBON)
    assert found(store, "lisbon") is None
    assert kept(store, "words") == 0


def test_the_rarest_words_count_most(postgresql: SessionStore) -> None:
    tell(postgresql, "ravi", *(f"My home has {n} rooms." for n in range(20)), LISBON, TORTOISE)
    assert found(postgresql, "homes tortoises") == [TORTOISE, *(f"My home has {n} rooms." for n in range(19, 10, -1))]
    assert found(postgresql, "settling lisbon", limit=1) == [LISBON]
    assert found(postgresql, "a word 'that' nobody \\ said") == []
    assert found(postgresql, "") == []
    tell(postgresql, "ravi", "A tortoise eats. Tortoise and tortoise!")
    assert found(postgresql, "tortoise", limit=1) == ["A tortoise eats. Tortoise and tortoise!"]
    tell(postgresql, "ravi", "The tortoise says so.", role="assistant")
    assert "The tortoise says so." not in (found(postgresql, "tortoise") or [])


def test_only_the_logs_that_are_asked_for_are_searched(postgresql: SessionStore) -> None:
    for tenant, session in (("t", "ravi"), ("t", "mia"), ("u", "ravi")):
        tell(postgresql, session, f"{session} of {tenant} has a tortoise.", tenant=tenant)
    assert found(postgresql, "tortoise") == ["ravi of t has a tortoise."]
    assert len(found(postgresql, "tortoise", "ravi", "mia", "nobody") or []) == 2
    assert found(postgresql, "tortoise", tenant="u") == ["ravi of u has a tortoise."]


def test_the_log_is_that_of_the_current_version(postgresql: SessionStore) -> None:
    for n in range(4):
        tell(postgresql, "ravi", f"tortoise {n}", f"tortoise {n} twice")
    postgresql.rollback("t", "ravi", version=3)
    tell(postgresql, "ravi", "tortoise afterwards")
    said = [one.message["content"] for one in postgresql.messages("t", "ravi")]
    assert said == ["tortoise 0", "tortoise 0 twice", "tortoise 1", "tortoise 1 twice", "tortoise afterwards"]
    assert set(found(postgresql, "tortoise") or []) == set(said)
    assert found(postgresql, "twice") == ["tortoise 1 twice", "tortoise 0 twice"]
    assert set(found(postgresql, "tortoise", most=3) or []) == set(said[-3:])
    postgresql.fork("t", "ravi", "fork")
    assert set(found(postgresql, "tortoise", "fork") or []) == set(said)


def test_words_go_with_their_message_and_before_anything_is_encrypted(
    url: str, postgresql: SessionStore, opened: Opened
) -> None:
    tell(postgresql, "ravi", LISBON)
    tell(postgresql, "mia", TORTOISE)
    assert found(postgresql, "lisbon") == [LISBON]
    assert found(postgresql, "tortoise", "mia") == [TORTOISE]
    assert kept(postgresql, "words") == 2
    postgresql.delete("t", "ravi")
    assert kept(postgresql, "words") == 1
    opened(keep_messages=True, keys=StateKeys.from_text(StateKeys.generate("k"))).rekey()
    assert kept(postgresql, "words") == 0


def test_vectors_are_encrypted_and_go_with_their_message(url: str, opened: Opened) -> None:
    old, new = StateKeys.generate("old"), StateKeys.generate("new")
    store = opened(keep_messages=True, keys=StateKeys.from_text(old))
    tell(store, "ravi", LISBON, TORTOISE)
    first, second = store.messages("t", "ravi")
    store.keep_vectors("t", "ravi", [(first, b"a vector"), (second, b"another")])
    store.keep_vectors("t", "ravi", [(first, b"a newer one")])
    assert store.vectors("t", "ravi") == {1: b"a newer one", 2: b"another"}
    assert store.vectors("t", "mia") == {}
    with store.database.read() as connection:
        rows = connection.execute(text("SELECT key_id, body FROM deltamem_message_vectors")).all()
    assert [row.key_id for row in rows] == ["old", "old"]
    assert all(b"vector" not in bytes(row.body) for row in rows)
    rotated = opened(keep_messages=True, keys=StateKeys.from_text(f"{new},{old}"))
    rotated.rekey()
    assert rotated.stats().rows_by_key == {"new": 2 + 2 + 2}
    assert opened(keep_messages=True, keys=StateKeys.from_text(new)).vectors("t", "ravi")[2] == b"another"
    store.delete("t", "ravi")
    assert kept(store, "vectors") == 0
    tell(store, "ravi", "Another text at the same position.")
    store.keep_vectors("t", "ravi", [(first, b"of what is gone")])
    assert store.vectors("t", "ravi") == {}
