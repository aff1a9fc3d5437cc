"""A store that is locked, full or restarted under a running server, and requests that mean harm."""

import base64
import json
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import SECRET, make_server, running
from sqlalchemy import event

from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.logs import JsonFormatter
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

TURN: dict[str, Any] = {"messages": [{"role": "user", "content": "I live in Lisbon."}], "temperature": 0}


def server_on(store: SessionStore) -> Server:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    return Server(model, tokenizer, store, Settings(secret=SECRET, max_body=200_000))


def turn(http: httpx.Client, session: str = "s") -> httpx.Response:
    return http.post("/v1/chat/completions", json=TURN, headers={"X-Memory-Session": session})


def refused(reply: httpx.Response, reason: str) -> None:
    """It is a 503 that says why and when to come back, and shows nothing of the inside."""
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (503, "store_unavailable"), reply.text
    assert int(reply.headers["Retry-After"]) >= 1
    assert reason in error["message"]
    for inside in ("sqlalchemy", "sqlite", "postgresql", "sessions.db", "/tmp"):
        assert inside not in reply.text.lower()
    assert "\n" not in error["message"]


def test_a_file_that_is_moved_away_is_told_and_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    file = tmp_path / "sessions.db"
    server = server_on(SessionStore.open(f"sqlite:///{file}"))
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        assert turn(http).status_code == 200
        there = [one.name for one in tmp_path.glob("sessions.db*")]
        for name in there:
            (tmp_path / name).rename(tmp_path / "away" / name)
        told = http.get("/readyz")
        assert told.status_code == 503
        assert "was moved, deleted or replaced while it was in use" in told.json()["status"]
        refused(turn(http), "was moved, deleted or replaced")
        assert not file.exists()
        for name in there:
            (tmp_path / "away" / name).rename(tmp_path / name)
        assert http.get("/readyz").json() == {"status": "ready"}
        assert turn(http).json()["memory"]["version"] == 3


def test_a_locked_database_refuses_and_then_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SessionStore.open(f"sqlite:///{tmp_path}/sessions.db", timeout=0.2, keep_messages=True)
    with running(server_on(store)) as url, httpx.Client(base_url=url, timeout=60) as http:
        assert turn(http).json()["memory"]["version"] == 2
        other = sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused(turn(http), "held its lock")
        told = json.loads(JsonFormatter().format(next(record for record in caplog.records if record.exc_info)))
        assert f"{tmp_path}/sessions.db" in told["reason"]
        refused(turn(http, "new"), "held its lock")
        refused(http.delete("/v1/sessions/s"), "held its lock")
        # What only reads goes on.
        assert http.get("/v1/sessions/s").json()["version"] == 2
        with http.stream("POST", "/v1/chat/completions", json=TURN | {"stream": True, "memory": {"session": "s"}}) as r:
            lines = [line for line in r.iter_lines() if line]
        assert "store_unavailable" in lines[-1]
        assert "data: [DONE]" not in lines
        other.execute("ROLLBACK")
        other.close()
        assert turn(http).json()["memory"]["version"] == 3
        assert http.get("/v1/sessions/new").status_code == 404
        assert len(http.get("/v1/sessions/s/messages").json()["data"]) == 4


def test_a_full_disk_refuses_and_then_goes_on(tmp_path: Path) -> None:
    store = SessionStore.open(f"sqlite:///{tmp_path}/sessions.db", timeout=1, keep_messages=True, keep_versions=None)
    limit = 60

    def confine(connection: sqlite3.Connection, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}")

    event.listen(store.database.engine, "connect", confine)
    store.database.engine.dispose()
    with running(server_on(store)) as url, httpx.Client(base_url=url, timeout=60) as http:
        acknowledged, reply = 0, turn(http)
        while reply.status_code == 200 and acknowledged < 200:
            acknowledged = reply.json()["memory"]["version"]
            reply = turn(http)
        refused(reply, "full")
        assert store.get("default", "s").head == acknowledged
        for address in ("/healthz", "/readyz", "/v1/sessions/s/memory"):
            assert http.get(address).status_code == 200
        limit = 100_000
        store.database.engine.dispose()
        assert turn(http).json()["memory"]["version"] == acknowledged + 1
        assert len(http.get("/v1/sessions/s/timeline?limit=1000").json()["data"]) == acknowledged + 1


def test_postgresql_restarted_under_load_loses_nothing_and_needs_no_restart(cluster: Any) -> None:
    store = SessionStore.open(cluster.empty_database(), timeout=2, keep_messages=True, keep_versions=None)
    acknowledged: dict[str, list[int]] = {f"s{number}": [] for number in range(4)}
    replies: list[httpx.Response] = []
    done = threading.Event()

    def talk(url: str, session: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not done.is_set():
                reply = turn(http, session)
                if reply.status_code == 200:
                    acknowledged[session].append(reply.json()["memory"]["version"])
                else:
                    replies.append(reply)
                    time.sleep(0.02)

    with running(server_on(store)) as url:
        threads = [threading.Thread(target=talk, args=(url, session)) for session in acknowledged]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                time.sleep(0.5)
                cluster.restart()
            before = {session: len(versions) for session, versions in acknowledged.items()}
            until = time.monotonic() + 60
            while any(len(acknowledged[s]) < before[s] + 2 for s in acknowledged) and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert all(len(acknowledged[s]) >= before[s] + 2 for s in acknowledged)
        with httpx.Client(base_url=url, timeout=60) as http:
            for session, versions in acknowledged.items():
                kept = [v["version"] for v in http.get(f"/v1/sessions/{session}/timeline?limit=1000").json()["data"]]
                assert set(versions) <= set(kept)
                assert kept == list(range(len(kept), 0, -1))
                log = http.get(f"/v1/sessions/{session}/messages?limit=1000").json()["data"]
                assert len(log) == 2 * (len(kept) - 1)
    for reply in replies:
        refused(reply, "cannot be used now")


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    server = make_server(max_body=200_000, max_tokens=4)
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/v1/sessions/ravi/observe", json={"text": "I live in Lisbon."}).raise_for_status()
        yield client


def declined(reply: httpx.Response, *statuses: int) -> None:
    """It is a refusal of the given kind, with a reason and no traceback."""
    assert reply.status_code in (statuses or range(400, 500)), reply.text
    error = reply.json()["error"]
    assert error["message"]
    assert error["code"]
    assert "Traceback" not in reply.text
    assert 'File "' not in reply.text


POSTS = ["/chat/completions", "/completions", "/sessions"]
POSTS += [f"/sessions/ravi/{what}" for what in ("observe", "fork", "rollback", "freeze", "import")]
NEED_NOTHING = ["/sessions", "/sessions/ravi/fork", "/sessions/ravi/freeze"]
BODIES = {
    "nothing": b"",
    "not JSON": b"{]",
    "half of it": b'{"messages": [{"role": "user", "con',
    "null": b"null",
    "a number": b"17",
    "a list": b'[{"session": "x"}]',
    "text that is not UTF-8": b'{"session": "\xff\xfe", "text": "\xc3\x28", "state": "\x80"}',
    "a NUL": b'{"session": "a\\u0000b", "state": "\\u0000", "messages": "\\u0000", "turns": "\\u0000"}',
    "deep lists": b'{"session": ' + b"[" * 30_000,
    "deep objects": b'{"session": ' * 10_000,
    "5,000 digits": b'{"session": 1, "turns": ' + b"9" * 5000 + b"}",
    "wrong types": b'{"session": {"a": 1}, "messages": {}, "prompt": {}, "text": 5, "turns": "two", "frozen": 3}',
    "too long": b'{"session": "' + b"a" * 250_000 + b'"}',
    "an unknown field": b'{"session": "x", "__proto__": {}, "messages": []}',
}


@pytest.mark.parametrize(
    ("path", "what"), [(path, what) for path in POSTS for what in BODIES if BODIES[what] or path not in NEED_NOTHING]
)
def test_bodies_that_mean_nothing_are_refused_with_a_reason(http: httpx.Client, path: str, what: str) -> None:
    reply = http.post(f"/v1{path}", content=BODIES[what], headers={"Content-Type": "application/json"})
    declined(reply, 413 if what == "too long" else 400)


NAMES = [
    "..",
    "%2e%2e%2f%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%2e%2e%2fstate-secret",
    "a%00b",
    "a%0d%0aX-Evil:%20yes",
    "a%0a",
]
NAMES += ["%ff%fe", "%c3%28", "%ed%a0%80", "C:%5cwindows", "~root", "a%20b", "a'%20OR%20'1'='1", "%25s%25n", "x" * 129]
NAMES += ["x" * 20_000, "é", "%F0%9F%98%80", ".%2fravi", "ravi%3b", "*", "%5Cravi"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:30])
def test_names_with_tricks_open_nothing(http: httpx.Client, name: str) -> None:
    for method, path, body in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/export?format=file", None),
        ("POST", "/observe", {"text": "x"}),
        ("POST", "/fork", {"session": "y"}),
    ]:
        reply = http.request(method, f"/v1/sessions/{name}{path}", json=body)
        declined(reply, 400, 404, 405)
    given = http.post("/v1/sessions", content=f'{{"session": "{name}"}}'.encode())
    declined(given, 400)
    declined(http.post("/v1/sessions/ravi/fork", json={"session": name}), 400)
    assert http.get("/v1/sessions/ravi").json()["version"] == 2
    assert [session["id"] for session in http.get("/v1/sessions").json()["data"]] == ["ravi"]


HEADERS = [
    ("X-Memory-Session", b"\xff\xfe"),
    ("X-Memory-Session", b"../ravi"),
    ("X-Memory-Session", b"a b"),
    ("X-Memory-Session", b"r" * 10_000),
    ("X-Request-Timeout", "٣".encode()),
    ("X-Request-Timeout", b"-1"),
    ("X-Request-Timeout", b"1e9"),
    ("Content-Type", b"application/x-www-form-urlencoded"),
    ("Content-Encoding", b"gzip"),
]


@pytest.mark.parametrize(("name", "value"), HEADERS, ids=lambda part: repr(part)[:30])
def test_headers_that_mean_nothing_are_refused(http: httpx.Client, name: str, value: bytes) -> None:
    headers = {"Content-Type": b"application/json", name: value}
    content = b"\x1f\x8b not gzip" if name == "Content-Encoding" else json.dumps(TURN).encode()
    declined(http.post("/v1/chat/completions", content=content, headers=headers), 400)


def test_bytes_that_are_no_request_at_all(http: httpx.Client) -> None:
    place = urlsplit(str(http.base_url))
    negative = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"
    for sent in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", negative):
        with socket.create_connection((str(place.hostname), place.port or 0), timeout=20) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(4096)
        assert answer.startswith(b"HTTP/1.1 4"), sent
        assert b"Traceback" not in answer
    assert http.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def signed(http: httpx.Client) -> str:
    return str(http.get("/v1/sessions/ravi/export").json()["state"])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), way=st.sampled_from(["cut", "flip", "splice", "insert"]))
@example(seed=0, way="cut")
def test_a_state_that_was_changed_anywhere_is_refused(http: httpx.Client, signed: str, seed: int, way: str) -> None:
    rng = random.Random(seed)
    prefix, body, signature = signed.split(".")
    raw = bytearray(base64.urlsafe_b64decode(body))
    place = rng.randrange(len(raw))
    if way == "cut":
        raw = raw[:place]
    elif way == "flip":
        raw[place] ^= 1 << rng.randrange(8)
    elif way == "splice":
        raw = raw[place:] + raw[:place] if place else raw[::-1]
    else:
        raw[place:place] = rng.randbytes(rng.randrange(1, 40))
    forged = f"{prefix}.{base64.urlsafe_b64encode(bytes(raw)).decode()}.{signature}"
    declined(http.post("/v1/sessions/other/import", json={"state": forged}), 400)
    chat = TURN | {"memory": {"state": forged[: rng.randrange(len(forged) + 1)]}}
    declined(http.post("/v1/chat/completions", json=chat), 400)
    assert http.get("/v1/sessions/other").status_code == 404


def test_what_a_server_signed_itself_must_still_be_a_memory(http: httpx.Client) -> None:
    """Someone who has the secret, or a bug, can sign anything."""
    server = make_server()
    for data in (b"", b"\x00" * 8, b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", b"\x02" + b"\x00" * 7 + b"{}"):
        state = server.signer.sign(data, "default")
        declined(http.post("/v1/sessions/other/import", json={"state": state}), 400)
    server.close()
