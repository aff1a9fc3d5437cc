"""Memories one by one: the verbs, asked of a running server by the client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from serving import make_server, running

from deltamem.cli.main import build_app
from deltamem.client import MemoryClient, MemoryRefusedError
from deltamem.store import StateKeys

LISBON, TORTOISE = "I settled in Lisbon some years ago.", "There is a tortoise at home with me."
BUS, CITY = "The bus was late on Monday.", "Which city do I live in?"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "sessions.db"


@pytest.fixture(scope="module")
def client(file: Path) -> Iterator[MemoryClient]:
    keys = StateKeys.from_text(StateKeys.generate("tests"))
    with running(make_server(f"sqlite:///{file}", keys=keys)) as url, MemoryClient(url) as client:
        yield client


def texts(found: list[dict[str, object]]) -> list[object]:
    return [one["memory"] for one in found]


def state_of(client: MemoryClient, session: str) -> object:
    return client.http.get(f"/v1/sessions/{session}/memory").json()["states"]


def test_what_is_added_is_found_by_its_words_and_known_to_the_state(client: MemoryClient) -> None:
    added = client.add([{"role": "user", "content": LISBON}], user_id="ravi", metadata={"topic": "home"})
    client.add(TORTOISE, user_id="ravi")
    client.add(BUS, user_id="ravi", run_id="7")
    found = client.search("the tortoises", user_id="ravi")
    assert texts(found["results"]) == [TORTOISE]
    asked = client.search(CITY, user_id="ravi")
    answers = {one["session"]: one for one in asked["answers"]}
    assert (answers["user:ravi"]["answer"], answers["user:ravi"]["known"]) == ("Lisbon.", True)
    assert not answers["user:ravi:run:7"]["known"]
    assert texts(client.get_all(user_id="ravi")) == [BUS, TORTOISE, LISBON]
    assert texts(client.get_all(run_id="7")) == [BUS]
    assert texts(client.get_all(user_id="ravi", limit=1)) == [BUS]
    assert client.get_all(user_id="rav") == []
    one = client.get(added[0]["id"])
    assert (one["memory"], one["metadata"], one["user_id"]) == (LISBON, {"topic": "home"}, "ravi")


def test_postgresql_finds_them_as_sqlite_does(cluster: Any) -> None:
    """By full text in the database where texts lie there in plain text, and in memory where they are encrypted."""
    keys = StateKeys.from_text(StateKeys.generate("tests"))
    for held in (None, keys):
        with running(make_server(cluster.empty_database(), keys=held)) as url, MemoryClient(url) as client:
            added = client.add([{"role": "user", "content": LISBON}, {"role": "user", "content": BUS}], user_id="ravi")
            client.add([{"role": "assistant", "content": TORTOISE}], user_id="ravi", run_id="7")
            client.http.post("/v1/sessions/user:ravi/observe", json={"text": "A tortoise came by."})

            def found(query: str, client: MemoryClient = client, **whose: str) -> list[object]:
                return texts(client.search(query, **({"user_id": "ravi"} | whose), ask=False)["results"])

            assert found("the tortoises, late on the bus") == [BUS, *found("tortoises")]
            assert set(found("tortoises")) == {TORTOISE, "A tortoise came by."}
            assert found("tortoise", run_id="7") == [TORTOISE]
            client.update(added[0]["id"], LISBON.replace("Lisbon", "Porto"))
            assert found("Lisbon settled") == found("porto") == [LISBON.replace("Lisbon", "Porto")]
            client.delete(added[1]["id"])
            assert found("bus") == []
            with pytest.raises(MemoryRefusedError, match="--embeddings"):
                client.search("bus", user_id="ravi", vectors=True)


def test_an_update_is_as_if_it_had_been_told_so_at_first(client: MemoryClient) -> None:
    (first,) = client.add(LISBON, user_id="mina")
    client.add(TORTOISE, user_id="mina")
    moved = LISBON.replace("Lisbon", "Porto")
    changed = client.update(first["id"], moved)
    assert (changed["id"], changed["memory"]) == (first["id"], moved)
    assert client.search(CITY, user_id="mina")["answers"][0]["answer"] == "Porto."
    client.add(moved, user_id="nora")
    client.add(TORTOISE, user_id="nora")
    assert state_of(client, "user:mina") == state_of(client, "user:nora")
    events = [(one["event"], one["old_memory"], one["new_memory"]) for one in client.history(first["id"])]
    assert events == [("ADD", None, LISBON), ("UPDATE", LISBON, moved)]
    assert texts(client.get_all(user_id="mina")) == [TORTOISE, moved]


def test_what_is_deleted_is_as_if_it_had_never_been(client: MemoryClient) -> None:
    told = [{"role": "user", "content": LISBON}, {"role": "user", "content": TORTOISE}]
    home, _ = client.add(told, user_id="omar")
    client.delete(home["id"])
    client.add(TORTOISE, user_id="petra")
    assert state_of(client, "user:omar") == state_of(client, "user:petra")
    assert texts(client.get_all(user_id="omar")) == [TORTOISE]
    for ask in (client.get, client.history, client.delete):
        with pytest.raises(MemoryRefusedError, match="no memory"):
            ask(home["id"])
    assert client.delete_all(user_id="omar") == ["user:omar"]
    assert client.get_all(user_id="omar") == []


def test_a_chat_is_the_same_memory(client: MemoryClient) -> None:
    body = {"messages": [{"role": "user", "content": LISBON}], "temperature": 0}
    client.http.post("/v1/chat/completions", json=body, headers={"X-Memory-Session": "user:quinn"})
    (said,) = client.get_all(user_id="quinn")
    assert (said["memory"], said["role"]) == (LISBON, "user")
    moved = client.update(said["id"], LISBON.replace("Lisbon", "Porto"))
    assert moved["id"] == said["id"]
    assert client.search(CITY, user_id="quinn")["answers"][0]["answer"] == "Porto."
    assert len(client.history(said["id"])) == 2


def test_an_export_of_another_product_is_taken_over(client: MemoryClient, tmp_path: Path) -> None:
    export = tmp_path / "mem0.json"
    export.write_text(json.dumps({"results": [{"memory": LISBON, "created_at": "2025-11-02"}, {"memory": TORTOISE}]}))
    main = typer.testing.CliRunner()
    command = ["memories", "import", str(export), "--server", str(client.http.base_url)]
    assert main.invoke(build_app(), [*command, "--dry-run"]).output.splitlines() == [LISBON, TORTOISE]
    done = main.invoke(build_app(), [*command, "--user", "rosa"])
    assert done.output == "Remembered 2 texts of mem0.\n"
    tortoise, home = client.get_all(user_id="rosa")
    assert (home["memory"], home["metadata"]) == (LISBON, {"source": "mem0", "created": "2025-11-02"})
    assert tortoise["metadata"] == {"source": "mem0"}
    assert isinstance(main.invoke(build_app(), command).exception, ValueError)


def test_mistakes_are_said(client: MemoryClient) -> None:
    for call, says in (
        (lambda: client.add("x"), "say whose memories"),
        (lambda: client.get_all(), "Say whose memories"),
        (lambda: client.add("  ", user_id="ravi"), "nothing to remember"),
        (lambda: client.add("x", user_id="a:b"), "user_id"),
        (lambda: client.get("user:ravi.m000"), "no memory"),
        (lambda: client.get("nonsense"), "no memory"),
        (lambda: client.add("x", user_id="u" * 60, agent_id="a" * 64), "too long together"),
    ):
        with pytest.raises(MemoryRefusedError, match=says):
            call()


def test_without_texts_there_are_no_memories_one_by_one() -> None:
    with (
        running(make_server(keep_messages=False)) as url,
        MemoryClient(url) as client,
        pytest.raises(MemoryRefusedError, match="--keep-messages"),
    ):
        client.add(LISBON, user_id="ravi")


def test_a_server_that_is_not_there_is_said() -> None:
    with MemoryClient("http://127.0.0.1:1") as client, pytest.raises(ConnectionError, match="does not answer"):
        client.get_all(user_id="ravi")
