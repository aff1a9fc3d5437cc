"""Who read, wrote, exported and deleted what is in the audit log before the answer is complete."""

from typing import Any

import httpx
import pytest
from serving import make_server, running
from sqlalchemy import text

from deltamem.serve.server import Server
from deltamem.store import ApiKeys, AuditLog, Scope

ASKED = {"messages": [{"role": "user", "content": "Where do I live?"}], "temperature": 0, "max_tokens": 2}


@pytest.fixture(scope="module")
def server() -> Server:
    return make_server(require_keys=True, audit=True)


def opens(server: Server, tenant: str, scope: Scope = "admin") -> tuple[dict[str, str], str]:
    made = ApiKeys(server.store).create(tenant, scope=scope)
    return {"Authorization": f"Bearer {made.secret}"}, made.record.id


def test_each_request_is_one_entry(server: Server, http: httpx.Client) -> None:
    headers, key = opens(server, "acme")
    ravi = headers | {"X-Memory-User": "ravi"}
    http.get("/v1/models", headers=headers).raise_for_status()
    http.post("/v1/chat/completions", headers=headers, json=ASKED).raise_for_status()  # no memory, so no entry
    http.post("/v1/chat/completions", headers=ravi, json=ASKED | {"memory": {"session": "s"}}).raise_for_status()
    streamed = ASKED | {"memory": {"session": "s", "mode": "read_only"}, "stream": True}
    http.post("/v1/chat/completions", headers=headers, json=streamed).raise_for_status()
    http.get("/v1/sessions/s/export", headers=headers).raise_for_status()
    http.head("/v1/sessions", headers=headers).raise_for_status()
    done = http.delete("/v1/sessions/s", headers=headers)
    assert http.get("/v1/sessions/s", headers=headers).status_code == 404
    found = AuditLog(server.store).read("acme")
    assert [(one.action, one.route, one.status, one.session, one.user) for one in found] == [
        ("write", "POST /v1/chat/completions", 200, "s", "ravi"),
        ("read", "POST /v1/chat/completions", 200, "s", None),
        ("export", "GET /v1/sessions/{session}/export", 200, "s", None),
        ("read", "GET /v1/sessions", 200, None, None),
        ("delete", "DELETE /v1/sessions/{session}", 200, "s", None),
        ("read", "GET /v1/sessions/{session}", 404, "s", None),
    ]
    assert {one.key for one in found} == {key}
    assert found[4].request_id == done.headers["X-Request-ID"]


def test_what_is_refused_is_noted_too(server: Server, http: httpx.Client) -> None:
    headers, key = opens(server, "refused", "read")
    assert http.delete("/v1/sessions/s", headers=headers).status_code == 403
    assert http.get("/v1/audit", headers=headers).status_code == 403
    assert [(one.action, one.status, one.key) for one in AuditLog(server.store).read("refused")] == [
        ("delete", 403, key),
        ("read", 403, key),
    ]


def test_an_admin_reads_the_tenants_own_entries(server: Server, http: httpx.Client) -> None:
    headers, _ = opens(server, "own")
    others, _ = opens(server, "other")
    for session in ("a", "b", "c"):
        http.post("/v1/sessions", headers=headers, json={"session": session}).raise_for_status()
    http.post("/v1/sessions", headers=others, json={"session": "a"}).raise_for_status()

    def read(**asked: Any) -> dict[str, Any]:
        reply = http.get("/v1/audit", headers=headers, params=asked)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    page = read(limit=2)
    assert [one["session"] for one in page["data"]] == ["a", "b"]
    assert [one["session"] for one in read(after=page["after"])["data"]][:1] == ["c"]
    assert [one["action"] for one in read(session="b")["data"]] == ["write"]
    assert read(until="2020-01-01T00:00:00Z") == {"object": "list", "kept": True, "data": [], "after": None}
    assert http.get("/v1/audit", headers=headers, params={"since": "yesterday"}).status_code == 400


def test_what_cannot_be_noted_is_not_answered() -> None:
    server = make_server(audit=True)
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        http.post("/v1/sessions", json={"session": "s"}).raise_for_status()
        with server.store.database.write() as connection:
            refuse = "CREATE TRIGGER full BEFORE INSERT ON deltamem_audit BEGIN SELECT RAISE(ABORT, 'no'); END"
            connection.execute(text(refuse))
        assert http.get("/v1/sessions/s").status_code == 500
        streamed = ASKED | {"memory": {"session": "s", "mode": "read_only"}, "stream": True}
        told = http.post("/v1/chat/completions", json=streamed).text
        assert '"error"' in told
        assert "[DONE]" not in told


def test_a_server_that_keeps_none_says_so() -> None:
    with running(make_server()) as url, httpx.Client(base_url=url, timeout=60) as http:
        http.post("/v1/sessions", json={"session": "s"}).raise_for_status()
        assert http.get("/v1/audit").json() == {"object": "list", "kept": False, "data": [], "after": None}
