"""Sessions that another adapter wrote: refused, unless they are told to start fresh."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import SECRET, make_server, running

from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

TOLD = [{"role": "user", "content": "I live in Lisbon."}]
ASKED = [{"role": "user", "content": "Where do I live?"}]


@contextmanager
def served(server: Server) -> Iterator[httpx.Client]:
    with running(server) as url, httpx.Client(base_url=f"{url}/v1", timeout=60) as http:
        yield http


def successor(url: str, **settings: Any) -> Server:
    """A server of the same store with another adapter."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "token")
    store = SessionStore.open(url, keep_messages=True)
    return Server(model, tokenizer, store, Settings(secret=SECRET, **settings))


def say(http: httpx.Client, messages: list[dict[str, str]], status: int = 200, **memory: Any) -> Any:
    reply = http.post("/chat/completions", json={"messages": messages, "temperature": 0, "memory": memory})
    assert reply.status_code == status, reply.text
    return reply.json()


def kinds(http: httpx.Client, session: str) -> list[str]:
    return [version["kind"] for version in http.get(f"/sessions/{session}/timeline").json()["data"]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with the sessions ravi, mina and cold, the last one frozen."""
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    with served(make_server(url)) as http:
        for name in ("ravi", "mina", "cold"):
            say(http, TOLD, session=name)
        http.post("/sessions/cold/freeze", json={})
    return url


def test_a_session_of_another_adapter_starts_fresh_when_told_to(url: str) -> None:
    with served(successor(url)) as http:
        refused = say(http, ASKED, 409, session="ravi")["error"]
        assert refused["code"] == "other_adapter"
        assert all(way in refused["message"] for way in ("start fresh", "memory.fresh", "--start-fresh", "--store"))
        say(http, ASKED, 409, session="ravi", mode="read_only")
        assert say(http, TOLD, session="ravi", fresh=True)["memory"]["version"] == 4
        assert kinds(http, "ravi") == ["turn", "forget", "turn", "create"]
        assert len(http.get("/sessions/ravi/messages").json()["data"]) == 2
        assert http.get("/sessions/ravi").json()["fingerprint"] != http.get("/sessions/mina").json()["fingerprint"]
        assert say(http, ASKED, session="ravi")["choices"][0]["message"]["content"] == "Lisbon."
        say(http, TOLD, 409, session="cold", fresh=True)
        say(http, TOLD, 404, session="nobody", fresh=True, must_exist=True)
        assert say(http, TOLD, session="new", fresh=True)["memory"]["version"] == 2
        assert kinds(http, "cold") == ["turn", "create"]


def test_a_turn_that_starts_fresh_reads_nothing_of_before(url: str) -> None:
    with served(make_server(url)) as http:
        assert say(http, ASKED, session="ravi", mode="read_only")["choices"][0]["message"]["content"] == "Lisbon."
        bare = say(http, ASKED)["choices"][0]["message"]["content"]
        fresh = say(http, ASKED, session="ravi", fresh=True)
        assert fresh["choices"][0]["message"]["content"] == bare != "Lisbon."
        assert fresh["memory"]["tokens"] == fresh["memory"]["written_tokens"]
        assert http.post("/sessions/ravi/rollback", json={"version": 2}).json()["version"] == 5
        assert say(http, ASKED, session="ravi")["choices"][0]["message"]["content"] == "Lisbon."


@pytest.mark.parametrize("memory", [{}, {"session": "ravi", "mode": "read_only"}, {"session": "ravi", "mode": "off"}])
def test_fresh_is_for_sessions_that_are_written(url: str, memory: dict[str, str]) -> None:
    with served(make_server(url)) as http:
        assert "fresh" in say(http, ASKED, 400, **memory, fresh=True)["error"]["message"]


def test_an_operator_can_have_all_sessions_start_fresh(url: str) -> None:
    with served(successor(url, start_fresh=True)) as http:
        say(http, TOLD, session="ravi")
        assert kinds(http, "ravi") == ["turn", "forget", "turn", "create"]
        say(http, ASKED, session="ravi")
        assert kinds(http, "ravi")[:2] == ["turn", "turn"]
        observed = http.post("/sessions/mina/observe", json={"text": "I live in Rome."}).json()
        assert observed["tokens"] == observed["written_tokens"]
        assert kinds(http, "mina") == ["observe", "forget", "turn", "create"]
        say(http, ASKED, 409, session="cold")


def test_a_new_adapters_memory_can_take_the_place_of_an_old_ones(url: str) -> None:
    with served(successor(url)) as http:
        say(http, TOLD, session="new")
        state = http.get("/sessions/new/export").json()["state"]
        assert http.post("/sessions/ravi/import", json={"state": state}).json()["version"] == 3
        assert kinds(http, "ravi") == ["import", "turn", "create"]
        assert say(http, ASKED, session="ravi")["choices"][0]["message"]["content"] == "Lisbon."
        assert http.post("/sessions/cold/import", json={"state": state}).status_code == 409
        assert http.post("/sessions/made/import", json={"state": state}).json()["version"] == 2


def test_a_session_can_be_forgotten(url: str) -> None:
    with served(successor(url)) as http:
        forgotten = http.post("/sessions/ravi/forget").json()
        assert (forgotten["version"], forgotten["tokens_written"]) == (3, 0)
        assert kinds(http, "ravi") == ["forget", "turn", "create"]
        assert not any(map(any, http.get("/sessions/ravi").json()["norms"]))
        assert http.get("/sessions/ravi/messages").json()["data"] == []
        assert say(http, TOLD, session="ravi")["memory"]["version"] == 4
        assert http.post("/sessions/cold/forget").json()["error"]["code"] == "session_frozen"
        assert http.post("/sessions/nobody/forget").status_code == 404
