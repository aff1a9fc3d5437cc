"""Webhooks hear what was done: signed as standardwebhooks.com has it, and again until they answer well."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from serving import make_server, running

from deltamem.serve import webhooks
from deltamem.store import Act, ApiKeys, Webhooks


class Listener(ThreadingHTTPServer):
    """An address that answers with the given statuses, one after the other, and then well."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.heard: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def wait_for(self, count: int) -> None:
        until = time.monotonic() + 60
        while len(self.heard) < count and time.monotonic() < until:
            time.sleep(0.02)
        assert len(self.heard) == count


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        listener: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        listener.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status = listener.statuses.pop(0) if listener.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def listening(*statuses: int) -> Iterator[Listener]:
    listener = Listener(*statuses)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield listener
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(webhooks, "DELAYS", (0.05, 0.05, 0.05))


def test_what_was_done_is_told_and_signed() -> None:
    verifier = pytest.importorskip("standardwebhooks")
    server = make_server(require_keys=True)
    made = ApiKeys(server.store).create("acme")
    headers = {"Authorization": f"Bearer {made.secret}", "X-Memory-User": "ravi"}
    with listening() as listener, running(server) as url, httpx.Client(base_url=url, headers=headers) as http:
        hook = Webhooks(server.store).create("acme", listener.url)
        until = time.monotonic() + 60
        while "acme" not in server.courier.wanted and time.monotonic() < until:
            time.sleep(0.02)
        http.post("/v1/sessions", json={"session": "s"}).raise_for_status()
        http.get("/v1/sessions/s").raise_for_status()
        assert http.post("/v1/sessions", json={"session": "s"}).status_code == 409
        gone = http.delete("/v1/sessions/s")
        listener.wait_for(2)
    # They may come in any order.
    told = {one["type"]: one["data"] for one in (json.loads(body) for _, body in listener.heard)}
    assert set(told) == {"memory.write", "memory.delete"}
    assert told["memory.delete"] == {
        "tenant": "acme", "key": made.record.id, "session": "s", "user": "ravi", "status": 200,
        "route": "DELETE /v1/sessions/{session}", "request_id": gone.headers["X-Request-ID"],
    }  # fmt: skip
    for received, body in listener.heard:
        assert verifier.Webhook(hook.secret).verify(body.decode(), received)
        with pytest.raises(verifier.WebhookVerificationError):
            verifier.Webhook(hook.secret).verify(body.decode().replace("acme", "emca"), received)
    assert len({received["webhook-id"] for received, _ in listener.heard}) == 2


def test_what_was_not_heard_is_told_again_and_given_up_at_last() -> None:
    server = make_server()
    with listening(500, 302) as slow, listening(*[503] * 9) as deaf, running(server) as url:
        Webhooks(server.store).create("default", slow.url)
        Webhooks(server.store).create("default", deaf.url)
        until = time.monotonic() + 60
        while not server.courier.wanted and time.monotonic() < until:
            time.sleep(0.02)
        httpx.post(f"{url}/v1/sessions", json={"session": "s"}).raise_for_status()
        slow.wait_for(3)
        deaf.wait_for(4)
        outcomes = [("delivered", 1), ("failed", 5), ("given_up", 1)]
        wanted = [f'deltamem_webhooks_total{{outcome="{outcome}"}} {times}.0' for outcome, times in outcomes]
        until = time.monotonic() + 60
        while not all(line in httpx.get(f"{url}/metrics").text for line in wanted) and time.monotonic() < until:
            time.sleep(0.02)
        counted = httpx.get(f"{url}/metrics").text
    assert [line for line in wanted if line not in counted] == []
    assert len({received["webhook-id"] for received, _ in slow.heard}) == 1
    assert (len(slow.heard), len(deaf.heard)) == (3, 4)


def test_one_that_never_answers_holds_up_neither_requests_nor_other_webhooks() -> None:
    server = make_server(require_keys=True)
    headers = {"Authorization": f"Bearer {ApiKeys(server.store).create('acme').secret}"}
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        listening() as listener,
        running(server) as url,
        httpx.Client(base_url=url, headers=headers) as http,
    ):
        hooks = Webhooks(server.store)
        hooks.create("acme", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        hooks.add(
            [Act("acme", "write", route="x", session=str(number), status=200) for number in range(20)], audit=False
        )
        hooks.create("acme", listener.url)
        hooks.add([Act("acme", "write", route="x", session="s", status=200)], audit=False)
        began = time.monotonic()
        for _ in range(10):
            http.get("/v1/sessions").raise_for_status()
            time.sleep(0.05)
        listener.wait_for(1)
        assert time.monotonic() - began < 8


def test_what_a_failed_attempt_met_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    server = make_server()
    with listening(500) as listener, running(server):
        hooks = Webhooks(server.store)
        hook = hooks.create("default", listener.url)
        hooks.add([Act("default", "write", route="x", session="s", status=200)], audit=False)
        listener.wait_for(2)
    assert f"webhook {hook.id} was not told, and is again in 0.05 s: HTTP 500" in caplog.messages


async def _posted(url: str) -> str | None:
    async with webhooks._client() as client:
        return await webhooks._post(client, webhooks.Delivery(1, "hook_1", url, "whsec_AAAA", "{}", 1))


def test_an_address_where_nobody_listens_is_tried_again() -> None:
    with listening() as listener:
        pass
    assert "connect" in (asyncio.run(_posted(listener.url)) or "").lower()


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_TIMEOUT", 0.5)

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            while True:
                connection.sendall(b"H")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        assert asyncio.run(_posted(f"http://127.0.0.1:{server.getsockname()[1]}/")) == "no answer within 0.5 seconds"
        thread.join(10)


def test_a_message_that_cannot_even_be_sent_is_a_failed_one() -> None:
    assert asyncio.run(_posted("http://127.0.0.1:x/"))
    assert asyncio.run(_posted(f"http://{'a' * 70}.example/"))
