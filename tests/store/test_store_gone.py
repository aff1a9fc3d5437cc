"""What was deleted of a user or a tenant is in no file of the database any more, its log included."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from deltamem.store import Act, ApiKeys, AuditLog, Commit, SessionStore, export

Opened = Callable[..., SessionStore]
KEPT, GONE = "canary-that-stays", "canary-that-goes"


def word(canary: str) -> str:
    """A canary that full text keeps as it is."""
    return canary.replace("-", "")[:12]


def fill(store: SessionStore, tenant: str, user: str, canary: str) -> None:
    """A canary in every place that holds what was said: memories, messages with what searches keep of them, labels."""
    store.create(tenant, user, fingerprint="f", state=f"{canary} 1".encode(), label=f"{canary} 2", user=user)
    for number in (1, 2):
        said = [
            {"role": "user", "content": f"{canary} {number} {'long ' * 2000}"},
            {"role": "assistant", "content": canary},
        ]
        store.commit(Commit(tenant, user, parent=number, state=canary.encode() * 500, tokens=1, messages=said))
    store.search(tenant, [user], canary, told=lambda _: word(canary), limit=1)
    store.keep_vectors(tenant, user, [(one, canary.encode()) for one in store.messages(tenant, user)])
    store.rollback(tenant, user, version=2)
    store.fork(tenant, user, f"{user}-fork")
    store.change(tenant, user, label=f"{canary} 3")


def files(url: str) -> list[Path]:
    place = make_url(url)
    if place.get_backend_name() == "sqlite":
        database = Path(str(place.database))
        return list(database.parent.glob(f"{database.name}*"))
    return [path for path in Path(str(place.query["host"])).rglob("*") if path.is_file()]


def holds(url: str, canary: str) -> list[str]:
    found = []
    for path in files(url):
        try:
            held = path.read_bytes()
            if canary.encode() in held or word(canary).encode() in held:
                found.append(path.name)
        except FileNotFoundError:  # PostgreSQL removes its own while we look
            continue
    return found


def through_its_log(url: str) -> None:
    """Has PostgreSQL begin a new segment of its log and remove the old ones, as it does in the course of time."""
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            for _ in range(2):
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("CHECKPOINT")


@pytest.mark.parametrize("of", ["user", "tenant"])
def test_what_was_deleted_is_in_no_file(of: str, url: str, opened: Opened) -> None:
    store = opened(keep_messages=True)
    others = ("t", "mia") if of == "user" else ("u", "ravi")
    fill(store, "t", "ravi", GONE)
    fill(store, *others, KEPT)
    if url.startswith("postgresql"):
        through_its_log(url)
    assert holds(url, GONE)
    assert (store.delete_user("t", "ravi") if of == "user" else store.delete_tenant("t")) == 2
    if url.startswith("sqlite"):
        assert holds(url, GONE) == []
    store.vacuum()
    through_its_log(url)
    assert holds(url, GONE) == []
    assert holds(url, KEPT)
    assert {one.session for one in store.list(others[0]).sessions} == {others[1], f"{others[1]}-fork"}
    assert store.load(*others).state == KEPT.encode() * 500


def test_a_users_sessions_are_those_that_say_so_and_those_of_the_memories_one_by_one(store: SessionStore) -> None:
    for session, user in (("a", "ravi"), ("b", "mia"), ("c", None), ("d", "ravi-2")):
        store.create("t", session, fingerprint="f", state=b"s", user=user)
    for session in ("user:ravi", "user:ravi:run:7", "user:ravindra", "agent:ravi"):
        store.create("t", session, fingerprint="f", state=b"s")
    store.create("u", "a", fingerprint="f", state=b"s", user="ravi")
    assert {one.session for one in store.list("t", user="ravi").sessions} == {"a", "user:ravi", "user:ravi:run:7"}
    assert store.delete_user("t", "ravi") == 3
    assert store.delete_user("t", "ravi") == 0
    left = {one.session for one in store.list("t").sessions}
    assert left == {"b", "c", "d", "user:ravindra", "agent:ravi"}
    assert store.get("u", "a").user == "ravi"


def test_an_export_has_everything_and_says_when_it_ends(store: SessionStore) -> None:
    fill(store, "t", "ravi", "said by ravi")
    fill(store, "t", "mia", "said by mia")
    fill(store, "u", "ravi", "another tenant")
    secret = ApiKeys(store).create("t").secret
    acts = [("ravi", None), (None, "ravi"), ("mia", "mia"), (None, None)]
    AuditLog(store).add([Act("t", "read", route="GET /x", session=session, user=user) for session, user in acts])
    everything, ravi = list(export(store, "t")), list(export(store, "t", "ravi"))

    def of(lines: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
        return [line for line in lines if line["object"] == kind]

    assert (everything[0]["object"], everything[-1]) == ("export", {"object": "end", "sessions": 4})
    assert ravi[-1] == {"object": "end", "sessions": 2}
    assert [one["session"] for one in of(ravi, "session")] == ["ravi-fork", "ravi"]
    assert [len(of(everything, kind)) for kind in ("session", "api_key", "audit")] == [4, 1, 4]
    assert [len(of(ravi, kind)) for kind in ("session", "api_key", "audit")] == [2, 0, 2]
    whole = of(ravi, "session")[1]
    assert [one["number"] for one in whole["versions"]] == [1, 2, 3, 4]  # type: ignore[attr-defined]
    assert [one["position"] for one in whole["messages"]] == [1, 2, 3, 4]  # type: ignore[attr-defined]
    assert "said by mia" not in repr(ravi)
    assert "another tenant" not in repr(everything)
    assert secret not in repr(everything)
