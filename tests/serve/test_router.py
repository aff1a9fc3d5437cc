"""Two replicas over one store, and the router of the examples: a session goes on wherever it is sent."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from scripts import example
from serving import address, make_server, running, start, start_app

CHAT = "/v1/chat/completions"
TALK = ("I live in Lisbon.", "Hello!", "My pet is called Biscuit.", "Where do I live?", "What is my pet called?")


class Replica:
    """A server with a model and an engine of its own.

    Args:
        store: URL of the database that it shares.
    """

    def __init__(self, store: str) -> None:
        self.server = make_server(store)
        self.web, self._thread = start(self.server)
        self.url = address(self.web)

    def stop(self) -> None:
        """Has it finish what it does, and end."""
        self.web.should_exit = True
        self._thread.join()
        self.server.store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return str(request.getfixturevalue("cluster").empty_database())


@pytest.fixture
def replicas(store: str) -> Iterator[list[Replica]]:
    made: list[Replica] = []
    try:
        made.extend(Replica(store) for _ in range(2))
        yield made
    finally:
        for replica in made:
            replica.stop()


@contextlib.contextmanager
def routed(replicas: Sequence[Replica]) -> Iterator[httpx.Client]:
    """A client of the router before these replicas."""
    router = example("router")
    router.PATIENCE = 120.0  # a busy machine's replicas are slow, not gone
    web, thread = start_app(router.create_router([replica.url for replica in replicas]))
    try:
        with httpx.Client(base_url=address(web), timeout=60) as http:
            yield http
    finally:
        web.should_exit = True
        thread.join()


def test_a_connection_that_breaks_off_once_moves_nobody() -> None:
    router = example("router")
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        if asked > 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async def watched(once: int) -> bool:
        nonlocal asked
        asked = once
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, httpx.AsyncClient() as client:
            asker = router.Router([url], client)
            await asker.ask(url)
        return bool(asker.ready[url])

    assert asyncio.run(watched(once=0))  # the first connection breaks off, the second one answers
    assert not asyncio.run(watched(once=-1))  # both break off


def say(http: httpx.Client, session: str, text: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12}
    return http.post(CHAT, json=body | {"memory": {"session": session}})


def told(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_session_that_changes_its_replica_every_turn_is_as_on_one(replicas: list[Replica]) -> None:
    with (
        running(make_server()) as alone,
        httpx.Client(base_url=alone, timeout=60) as one,
        httpx.Client(base_url=replicas[0].url, timeout=60) as first,
        httpx.Client(base_url=replicas[1].url, timeout=60) as second,
    ):
        for text, here in zip(TALK, cycle((first, second)), strict=False):
            moving, staying = told(say(here, "ravi", text)), told(say(one, "ravi", text))
            assert moving["choices"] == staying["choices"]
            assert moving["memory"]["version"] == staying["memory"]["version"]
        assert "Biscuit" in content(moving)
        memories = [http.get("/v1/sessions/ravi/memory").json()["states"] for http in (first, second, one)]
    assert memories[0] == memories[1]
    torch.testing.assert_close(torch.tensor(memories[0]), torch.tensor(memories[2]))


def test_a_session_keeps_its_replica_and_goes_on_at_another_when_that_is_gone(replicas: list[Replica]) -> None:
    with routed(replicas) as http:
        answers = [say(http, "ravi", text) for text in TALK[:3]]
        (place,) = {answer.headers["x-replica"] for answer in answers if told(answer)}
        assert {say(http, f"someone-{n}", "Hello!").headers["x-replica"] for n in range(12)} == {
            replica.url for replica in replicas
        }
        next(replica for replica in replicas if replica.url == place).stop()
        moved = say(http, "ravi", TALK[3])
        assert "Lisbon" in content(told(moved))
        assert moved.headers["x-replica"] != place
        assert told(moved)["memory"]["version"] == 5  # 1 is empty
        assert http.get("/v1/sessions/ravi").headers["x-replica"] == moved.headers["x-replica"]


def test_streams_pass_through_as_they_come(replicas: list[Replica]) -> None:
    body = {"messages": [{"role": "user", "content": TALK[0]}], "stream": True, "max_tokens": 12}
    with routed(replicas) as http:
        with http.stream("POST", CHAT, json=body, headers={"X-Memory-Session": "ravi"}) as stream:
            lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
        assert lines[-1] == "data: [DONE]"
        assert len(lines) > 3
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        (version,) = [chunk["memory"]["version"] for chunk in chunks if "memory" in chunk]
        assert http.get("/v1/sessions/ravi").json()["version"] == version == 2


def test_no_acknowledged_turn_is_lost_when_a_replica_stops_under_load(replicas: list[Replica]) -> None:
    halfway = threading.Barrier(7)

    def talk(session: str) -> list[int]:
        """The versions that were acknowledged, of turns each of which is asked for until it is."""
        versions = []
        for number, text in enumerate(TALK):
            if number == 2:
                halfway.wait(600)
            while (answer := say(http, session, text)).status_code != 200:
                assert answer.status_code in (502, 503), answer.text
            versions.append(told(answer)["memory"]["version"])
        return versions

    with routed(replicas) as http, ThreadPoolExecutor(6) as pool:
        talks = [pool.submit(talk, f"s{number}") for number in range(6)]
        halfway.wait(600)
        replicas[0].stop()
        acknowledged = [done.result(600) for done in talks]
        store = replicas[1].server.store
        for number, versions in enumerate(acknowledged):
            assert versions == sorted(set(versions))
            for version in versions:
                assert store.load("default", f"s{number}", version).kind == "turn"
            assert "Biscuit" in content(told(say(http, f"s{number}", TALK[4])))


def test_a_router_without_replicas_says_so() -> None:
    class Gone:
        url = "http://127.0.0.1:9"

    with routed([Gone()]) as http:  # type: ignore[list-item]
        answer = http.get("/v1/models")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "replica_unavailable"
