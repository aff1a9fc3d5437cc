from pathlib import Path

import httpx
from serving import address, commanded, make_server, start

from deltamem.store import SessionStore

BODY = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "temperature": 0}
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


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with commanded(tmp_path) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json=BODY, headers=HEADERS, timeout=60)
        assert reply.json()["memory"]["version"] == 2
    assert (tmp_path / "sessions.db").exists()
    assert (tmp_path / "state-secret").stat().st_mode & 0o077 == 0
