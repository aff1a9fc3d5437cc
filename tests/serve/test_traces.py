"""A collector gets a span for each request, within its client's, and in it those of the parts; and no text."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from serving import make_server, running

from deltamem.serve import traces

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASKED = {"messages": [{"role": "user", "content": "My password is swordfish."}], "temperature": 0, "max_tokens": 2}


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        server.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            server.resources.append({one.key: one.value.string_value for one in group.resource.attributes})
            server.spans += [one for scope in group.scope_spans for one in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.bodies, server.resources, server.spans = [], [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "memories")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_a_span_with_its_parts(collector: Any) -> None:
    end = traces.send_traces()
    try:
        with running(make_server(keep_messages=False)) as url, httpx.Client(base_url=url, timeout=60) as http:
            streamed = ASKED | {"memory": {"session": "s"}, "stream": True}
            http.post("/v1/chat/completions", json=streamed, headers={"traceparent": CLIENTS}).raise_for_status()
            read = ASKED | {"memory": {"session": "s", "mode": "read_only"}}
            http.post("/v1/chat/completions", json=read).raise_for_status()
            assert http.get("/v1/sessions/absent").status_code == 404
    finally:
        end()
    by_id = {span.span_id: span for span in collector.spans}
    requests = [span for span in collector.spans if span.kind == 2]
    assert [span.name for span in requests] == ["POST /v1/chat/completions"] * 2 + ["GET /v1/sessions/{session}"]
    first, second, _ = requests
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == tuple(CLIENTS.split("-")[1:3])
    assert second.trace_id != first.trace_id

    def parts(of: Any) -> list[str]:
        return sorted(one.name for one in collector.spans if by_id.get(one.parent_span_id) is of)

    assert parts(first) == ["generate", "memory.write", "store.commit", "store.load"]
    assert parts(second) == ["generate", "store.load"]
    about = {one.key: one.value for one in first.attributes}
    assert about["http.response.status_code"].int_value == 200
    assert about["deltamem.tenant"].string_value == "default"
    generated = next(one for one in collector.spans if one.name == "generate")
    assert {one.key: one.value.int_value for one in generated.attributes}["deltamem.completion_tokens"] == 2
    assert {one["service.name"] for one in collector.resources} == {"memories"}
    assert not any(b"swordfish" in body for body in collector.bodies)


def test_without_traces_nothing_is_sent(collector: Any) -> None:
    with running(make_server()) as url:
        httpx.get(f"{url}/v1/sessions").raise_for_status()
    assert collector.bodies == []
