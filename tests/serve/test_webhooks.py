"""Webhooks hear what was done: signed as standardwebhooks.com has it, and again until they answer well."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from serving import make_server, running

from deltamem.serve import webhooks
from deltamem.store import ApiKeys, Webhooks


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


def test_an_address_where_nobody_listens_is_tried_again() -> None:
    with listening() as listener:
        pass
    one = webhooks.Delivery(1, listener.url, "whsec_AAAA", "{}", 1)
    assert webhooks._post(one) == "URLError"
