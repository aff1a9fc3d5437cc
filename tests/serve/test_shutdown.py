import asyncio
import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import address, commanded, make_server, start

from deltamem.serve.run import Web
from deltamem.store import SessionStore

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "temperature": 0}
HEADERS = {"X-Memory-Session": "ravi"}


def test_a_turn_under_way_is_finished_and_committed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    server = make_server(url)
    server.engine._ends = frozenset()
    web, thread = start(server)
    body = BODY | {"stream": True, "max_tokens": 40}
    path = f"{address(web)}/v1/chat/completions"
    with httpx.stream("POST", path, json=body, headers=HEADERS, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        web.should_exit = True
        assert list(lines)[-2] == "data: [DONE]"
    thread.join()
    assert not server.engine.alive
    with SessionStore.open(url) as store:
        assert store.get("default", "ravi").head == 2


def test_streams_that_take_too_long_are_told_in_their_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltamem.serve.run._LAST_WORDS", 60)
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    server = make_server(url)
    server.engine._ends = frozenset()
    web = Web(server, 0, grace=0)
    thread = threading.Thread(target=lambda: asyncio.run(web.serve()))
    thread.start()
    while not web.started:
        assert thread.is_alive()
        time.sleep(0.01)
    said = {"messages": BODY["messages"], "stream": True}
    asked = {
        "chat/completions": said | {"max_tokens": 480},
        "messages": said | {"max_tokens": 480},
        "responses": {"input": "I live in Lisbon.", "stream": True, "max_output_tokens": 480},
    }
    with contextlib.ExitStack() as stack:
        streams = []
        for place, (path, body) in enumerate(asked.items()):
            headers = {"X-Memory-Session": f"s{place}"}
            reply = stack.enter_context(
                httpx.stream("POST", f"{address(web)}/v1/{path}", json=body, headers=headers, timeout=300)
            )
            lines = (line for line in reply.iter_lines() if line)
            streams.append((next(lines), lines))
        web.should_exit = True
        ends = [[first, *lines][-2:] for first, lines in streams]
    thread.join()
    chat, messages, responses = (json.loads(end[-1].removeprefix("data: ")) for end in ends)
    assert (chat["error"]["type"], chat["error"]["code"]) == ("server_error", "shutting_down")
    assert [end[0] for end in ends[1:]] == ["event: error", "event: error"]
    assert (messages["type"], messages["error"]["type"]) == ("error", "overloaded_error")
    assert (responses["type"], responses["code"]) == ("error", "shutting_down")
    assert responses["message"] == responses["error"]["message"] == "The server is shutting down."
    assert responses["sequence_number"] >= 2
    with SessionStore.open(url) as store:
        assert store.count() == 0


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with commanded(tmp_path) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json=BODY, headers=HEADERS, timeout=60)
        assert reply.json()["memory"]["version"] == 2
    assert (tmp_path / "sessions.db").exists()
    assert (tmp_path / "state-secret").stat().st_mode & 0o077 == 0
