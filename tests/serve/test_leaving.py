"""Clients that leave while their turn is being committed."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import SECRET, make_server, running

from deltamem.serve.server import Server
from deltamem.store import Commit, Version

TURN: dict[str, Any] = {
    "messages": [{"role": "user", "content": "I live in Lisbon."}],
    "temperature": 0,
    "memory": {"session": "s"},
}


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    if request.param == "sqlite":
        return make_server(f"sqlite:///{tmp_path / 'sessions.db'}", secret=SECRET)
    return make_server(request.getfixturevalue("cluster").empty_database(), secret=SECRET)


@pytest.fixture
def slow(server: Server, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A store whose commits take a second, and the event that one has begun."""
    begun = threading.Event()
    commit, commit_all = server.store.commit, server.store.commit_all

    def one(wanted: Commit) -> Version:
        begun.set()
        time.sleep(1)
        return commit(wanted)

    def several(wanted: Sequence[Commit]) -> list[Version | Exception]:
        begun.set()
        time.sleep(1)
        return commit_all(wanted)

    monkeypatch.setattr(server.store, "commit", one)
    monkeypatch.setattr(server.store, "commit_all", several)
    return begun


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


@pytest.mark.parametrize(("stream", "silence"), [(False, 5.0), (True, 5.0), (True, 0.05)])
def test_the_next_turn_begins_when_the_commit_of_one_that_was_left_is_over(
    http: httpx.Client,
    server: Server,
    slow: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
    silence: float,
) -> None:
    monkeypatch.setattr("deltamem.serve.routes.common.SILENCE", silence)
    body = json.dumps(TURN | {"stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port)) as leaver:
        leaver.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert slow.wait(60)
        time.sleep(3 * silence if silence < 1 else 0)
    after = http.post("/v1/chat/completions", json=TURN)
    assert (after.status_code, after.json()["memory"]["version"]) == (200, 3)
    kept = http.get("/v1/sessions/s/timeline").json()["data"]
    assert [version["kind"] for version in kept] == ["turn", "turn", "create"]
    assert len(server.turns) == 0
