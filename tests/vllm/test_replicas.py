"""Two replicas on vLLM over one PostgreSQL: a session moves between them in mid-conversation, and one of them dies."""

import contextlib
import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from scripts import benchmark, example, running_postgres
from serving import PATIENCE_S, SECRET, address, make_server, running, start_app
from talk import CHAT, command, content, free_url, matrices, say

from deltamem.demo.tokenizer import build_tokenizer
from deltamem.store import SessionStore

TALK = ("I live in Lisbon.", "Hello!", "My pet is called Biscuit.", "Where do I live?", "What is my pet called?")
TURNS = 6


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    for cluster in running_postgres():
        yield cluster.empty_database()


@pytest.fixture(scope="module")
def replicas(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The processes of two `deltamem serve --engine vllm`, by their addresses."""
    os.environ["DELTAMEM_STATE_SECRET"] = SECRET.decode()
    try:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:

            def started(url: str, home: Path) -> Any:
                return stack.enter_context(command(home, url, store, "--keep-messages", "--keep-versions", "0"))

            urls = [free_url(), free_url()]
            yield dict(zip(urls, pool.map(started, urls, map(tmp_path_factory.mktemp, ("one", "two"))), strict=True))
    finally:
        del os.environ["DELTAMEM_STATE_SECRET"]


def test_a_session_that_changes_its_replica_every_turn_is_as_on_the_own_engine(replicas: dict[str, Any]):
    with (
        running(make_server()) as alone,
        httpx.Client(base_url=alone, timeout=PATIENCE_S) as own,
        contextlib.ExitStack() as stack,
    ):
        both = [stack.enter_context(httpx.Client(base_url=url, timeout=PATIENCE_S)) for url in replicas]
        for text, here in zip(TALK, cycle(both), strict=False):
            moving, staying = say(here, "ravi", text), say(own, "ravi", text)
            assert content(moving) == content(staying)
            assert moving["memory"]["version"] == staying["memory"]["version"]
        assert "Biscuit" in content(moving)
        assert torch.equal(*(matrices(client, "ravi") for client in both))
        torch.testing.assert_close(matrices(both[0], "ravi"), matrices(own, "ravi"), atol=1e-4, rtol=0)


def test_no_acknowledged_turn_is_lost_when_a_replica_is_killed_in_mid_answer(replicas: dict[str, Any], store: str):
    crash, router = benchmark("crash"), example("router")
    router.PATIENCE = 120.0  # a busy machine's replicas are slow, not gone
    gone, left = urls = list(replicas)
    clients = [crash.Client(name, random.Random(name)) for url in urls for name in sessions_of(router, url, urls)]
    cut_off = crash.Client(clients[0].session + "-cut-off", random.Random(0))
    halfway = threading.Barrier(len(clients) + 1)
    places: dict[bool, set[str]] = {False: set(), True: set()}  # of turns, by whether they are of the second half

    def talk(url: str, client: Any) -> None:
        """Turns each of which is asked for until it is acknowledged."""
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
            for number in range(TURNS):
                if number == TURNS // 2:
                    halfway.wait(PATIENCE_S)
                said = crash.chat(client.rng, 1)[0].text
                body = {"messages": [{"role": "user", "content": said}], "temperature": 0, "max_tokens": 12}
                while (answer := http.post(CHAT, json=body | {"memory": {"session": client.session}})).is_error:
                    assert answer.status_code in (502, 503), answer.text
                told = answer.json()
                client.acknowledged[told["memory"]["version"]] = (said, content(told))
                places[number >= TURNS // 2].add(answer.headers["x-replica"])

    web, thread = start_app(router.create_router(urls))
    try:
        with ThreadPoolExecutor(len(clients)) as pool:
            talks = [pool.submit(talk, address(web), client) for client in clients]
            halfway.wait(PATIENCE_S)
            assert kill_in_mid_answer(gone, replicas[gone], cut_off.session) == []
            for done in talks:
                done.result(PATIENCE_S)
    finally:
        web.should_exit = True
        thread.join()
    assert places[False] == set(replicas)
    assert left in places[True]
    checker = crash.Checker()
    with contextlib.closing(SessionStore.open(store)) as sessions:
        assert [problem for client in (*clients, cut_off) for problem in checker.check(sessions, client)] == []
    assert checker.versions >= len(clients) * TURNS
    assert checker.under_way <= len(clients)  # committed at the kill, and asked again


def sessions_of(router: Any, url: str, urls: Sequence[str], many: int = 2) -> list[str]:
    """So many sessions that the router keeps at a replica."""
    order = router.Router(urls, None).order
    return list(islice((name for name in map("s{}".format, count()) if order(f" {name}")[0] == url), many))


def kill_in_mid_answer(url: str, process: Any, session: str) -> list[dict[str, Any]]:
    """Kills a replica while it streams an answer; gives what it acknowledged of it."""
    end = build_tokenizer().eos_token_id
    body = {"messages": [{"role": "user", "content": TALK[0]}], "stream": True, "max_tokens": 400}
    body |= {"logit_bias": {str(end): -100}, "memory": {"session": session}}
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as http, http.stream("POST", CHAT, json=body) as stream:
        lines = stream.iter_lines()
        chunks = [next(line for line in lines if '"content"' in line)]
        process.kill()
        with contextlib.suppress(httpx.TransportError):
            chunks += lines
    return [chunk for line in chunks if line.startswith("data: {") if "memory" in (chunk := json.loads(line[6:]))]
