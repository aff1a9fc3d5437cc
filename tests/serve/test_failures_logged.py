"""The log and the metrics tell of the failures that a status of 200 or a short answer hides."""

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import SECRET, running

from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

TURN: dict[str, Any] = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "ignore_eos": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failures") / "sessions.db"


@pytest.fixture(scope="module")
def http(path: Path) -> Iterator[httpx.Client]:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    store = SessionStore.open(f"sqlite:///{path}", timeout=0.2)
    with (
        running(Server(model, tokenizer, store, Settings(secret=SECRET))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def logged(caplog: pytest.LogCaptureFixture, request_id: str) -> list[tuple[int, str]]:
    """Levels and classes of the errors that were logged under a request's id."""
    records = [record for record in caplog.records if getattr(record, "request_id", None) == request_id]
    return [(r.levelno, r.exc_info[0].__name__) for r in records if r.exc_info and r.exc_info[0]]


def test_a_stream_that_fails(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "deltamem")
    http.post("/v1/sessions", json={"session": "frozen"})
    late = TURN | {"stream": True, "max_tokens": 480}
    reply = http.post(
        "/v1/chat/completions", json=late, headers={"X-Request-Timeout": "0.2", "X-Request-ID": "late-stream"}
    )
    assert reply.status_code == 200
    assert "deadline_exceeded" in reply.text
    assert "[DONE]" not in reply.text
    assert logged(caplog, "late-stream") == [(logging.ERROR, "DeadlineError")]
    frozen = late | {"max_tokens": 200, "memory": {"session": "frozen"}}
    headers = {"X-Request-ID": "frozen-stream"}
    with http.stream("POST", "/v1/chat/completions", json=frozen, headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        http.post("/v1/sessions/frozen/freeze", json={})
        assert "session_frozen" in "".join(lines)
    assert logged(caplog, "frozen-stream") == [(logging.WARNING, "FrozenError")]
    metrics = http.get("/metrics").text
    for code in ("deadline_exceeded", "session_frozen"):
        assert f'deltamem_stream_errors_total{{code="{code}"}} 1.0' in metrics


def test_a_store_out_of_reach(http: httpx.Client, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "deltamem")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    reply = http.post("/v1/sessions", json={"session": "new"}, headers={"X-Request-ID": "locked"})
    other.close()
    assert reply.status_code == 503
    assert logged(caplog, "locked") == [(logging.ERROR, "UnavailableError")]


def test_a_refusal_is_no_failure(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "deltamem")
    assert http.get("/v1/sessions/nobody", headers={"X-Request-ID": "refused"}).status_code == 404
    assert logged(caplog, "refused") == []
