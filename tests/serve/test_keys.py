import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import SECRET, make_server, running
from typer.testing import CliRunner

from deltamem.cli.main import build_app
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings, is_loopback
from deltamem.store import ApiKeys, KeyLimits, Scope

ASKED = {"messages": [{"role": "user", "content": "Where do I live?"}], "temperature": 0, "max_tokens": 4}


@pytest.fixture(scope="module")
def server() -> Server:
    return make_server(require_keys=True, host="0.0.0.0", allow_origins=("https://chat.example",))


def key(server: Server, tenant: str, *, scope: Scope = "write", **limits: Any) -> dict[str, str]:
    made = ApiKeys(server.store).create(tenant, limits=KeyLimits(**limits), scope=scope)
    return {"Authorization": f"Bearer {made.secret}"}


def test_nothing_opens_without_a_key(server: Server, http: httpx.Client) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic eA=="},
        {"Authorization": "é".encode()},
    ):
        for method, path in (("GET", "/v1/sessions"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
            reply = http.request(method, path, headers=headers, json=ASKED if method == "POST" else None)  # type: ignore[arg-type]
            assert reply.status_code == 401
            assert reply.json()["error"]["type"] == "authentication_error"
    assert http.get("/healthz").status_code == 200
    made = ApiKeys(server.store).create("acme")
    headers = {"Authorization": f"Bearer {made.secret}"}
    assert http.get("/v1/models", headers=headers).status_code == 200
    ApiKeys(server.store).revoke(made.record.id)
    assert http.get("/v1/models", headers=headers).status_code == 401


def test_anthropics_header_opens_as_well(server: Server, http: httpx.Client) -> None:
    secret = ApiKeys(server.store).create("acme").secret
    asked = {"messages": [{"role": "user", "content": "Where do I live?"}]}
    counted = http.post("/v1/messages/count_tokens", json=asked, headers={"x-api-key": secret})
    assert counted.json()["input_tokens"] > 4
    for headers in (
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": secret, "Authorization": "Basic eA=="},
        {"x-api-key": secret, "Authorization": "Bearer wrong"},
    ):
        assert http.get("/v1/models", headers=headers).status_code == 401
    both = {"x-api-key": "wrong", "Authorization": f"Bearer {secret}"}
    assert http.get("/v1/models", headers=both).status_code == 200


def test_tenants_do_not_see_one_another(server: Server, http: httpx.Client) -> None:
    acme, other = key(server, "acme"), key(server, "other")
    assert http.post("/v1/sessions", headers=acme, json={"session": "secret"}).status_code == 201
    exported = http.get("/v1/sessions/secret/export", headers=acme).json()["state"]
    routes = [
        ("GET", ""), ("GET", "/timeline"), ("GET", "/messages"), ("GET", "/memory"), ("GET", "/export"), ("DELETE", ""),
        ("POST", "/fork"), ("POST", "/rollback"), ("POST", "/freeze"), ("PATCH", ""),
    ]  # fmt: skip
    for method, path in routes:
        body = None if method in ("GET", "DELETE") else {"turns": 1} if path == "/rollback" else {}
        reply = http.request(method, f"/v1/sessions/secret{path}", headers=other, json=body)
        assert reply.status_code == 404, (method, path, reply.text)
    assert http.get("/v1/sessions", headers=other).json()["data"] == []
    reading = ASKED | {"memory": {"session": "secret", "mode": "read_only"}}
    assert http.post("/v1/chat/completions", headers=other, json=reading).status_code == 404
    for path, body in (
        ("/v1/sessions", {"state": exported}),
        ("/v1/chat/completions", ASKED | {"memory": {"state": exported}}),
    ):
        assert http.post(path, headers=other, json=body).status_code == 400
        assert http.post(path, headers=acme, json=body).status_code in (200, 201)


def test_a_key_that_may_read_changes_nothing(server: Server, http: httpx.Client) -> None:
    reads, writes = key(server, "scoped", scope="read"), key(server, "scoped")

    def chat(headers: dict[str, str], **memory: Any) -> httpx.Response:
        return http.post("/v1/chat/completions", headers=headers, json=ASKED | {"memory": memory})

    turned = http.post("/v1/responses", headers=writes, json={"input": "I live in Lisbon.", "conversation": "s"}).json()
    assert chat(writes, session="s").status_code == 200
    before = http.get("/v1/sessions/s", headers=reads).json()
    routes: list[tuple[str, str, Any]] = [
        ("POST", "/v1/sessions", {}),
        ("PATCH", "/v1/sessions/s", {"label": "x"}),
        ("DELETE", "/v1/sessions/s", None),
        *(("POST", f"/v1/sessions/s/{one}", {}) for one in ("forget", "fork", "freeze")),
        ("POST", "/v1/sessions/s/observe", {"text": "x"}),
        ("POST", "/v1/sessions/s/rollback", {"turns": 1}),
        ("POST", "/v1/sessions/s/import", {"state": "x"}),
        ("POST", "/v1/chat/completions", ASKED | {"memory": {"session": "s"}}),
        ("POST", "/v1/chat/completions", ASKED | {"memory": {"session": "new"}, "stream": True}),
        ("POST", "/v1/completions", {"prompt": "x", "memory": {"session": "s"}}),
        ("POST", "/v1/responses", {"input": "x"}),
        ("POST", "/v1/responses", {"input": "x", "store": False, "previous_response_id": turned["id"]}),
    ]
    for method, path, body in routes:
        reply = http.request(method, path, headers=reads, json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope"), (path, reply.text)
    assert http.get("/v1/sessions/s", headers=reads).json() == before
    assert [one["id"] for one in http.get("/v1/sessions", headers=reads).json()["data"]] == ["s"]
    for reply in (
        chat(reads, session="s", mode="read_only"),
        chat(reads, return_state=True),
        http.get("/v1/sessions/s/export", headers=reads),
        http.post("/v1/sessions/s/recall", headers=reads, json={"questions": ["Where do I live?"]}),
        http.post("/v1/sessions/s/strengths", headers=reads, json={"version": 2}),
    ):
        assert reply.status_code == 200, reply.text


def test_sessions_are_of_the_user_that_the_header_names(server: Server, http: httpx.Client) -> None:
    opens = key(server, "users")

    def user_of(session: str) -> Any:
        return http.get(f"/v1/sessions/{session}", headers=opens).json()["user"]

    ravi = opens | {"X-Memory-User": "ravi"}
    http.post("/v1/sessions", headers=ravi, json={"session": "made"}).raise_for_status()
    http.post("/v1/sessions/observed/observe", headers=ravi, json={"text": "x"}).raise_for_status()
    http.post("/v1/chat/completions", headers=ravi, json=ASKED | {"memory": {"session": "told"}}).raise_for_status()
    http.post("/v1/sessions/made/fork", headers=opens, json={"session": "forked"}).raise_for_status()
    http.post("/v1/sessions", headers=opens, json={"session": "nobody"}).raise_for_status()
    listed = http.get("/v1/sessions", headers=opens, params={"user": "ravi"}).json()["data"]
    assert {one["session"] for one in listed} == {"made", "observed", "told", "forked"}
    assert user_of("nobody") is None
    asked = ASKED | {"memory": {"session": "told"}}
    http.post("/v1/chat/completions", headers=opens | {"X-Memory-User": "mia"}, json=asked).raise_for_status()
    assert user_of("told") == "ravi"  # whose a session is already does not change with a turn
    assert http.patch("/v1/sessions/told", headers=opens, json={"user": "mia"}).json()["user"] == "mia"
    assert http.get("/v1/sessions", headers=opens | {"X-Memory-User": "a/b"}).status_code == 400


def test_keys_have_rates_and_sizes(server: Server, http: httpx.Client) -> None:
    few = key(server, "few", requests_per_minute=3)
    statuses = [http.get("/v1/models", headers=few) for _ in range(5)]
    assert [reply.status_code for reply in statuses] == [200, 200, 200, 429, 429]
    assert 1 <= int(statuses[-1].headers["Retry-After"]) <= 20
    small = key(server, "small", request_bytes=200)
    assert http.post("/v1/chat/completions", headers=small, json=ASKED).status_code == 200
    long = {"messages": [{"role": "user", "content": "x" * 300}]}
    assert http.post("/v1/chat/completions", headers=small, json=long).status_code == 413
    thrifty = key(server, "thrifty", tokens_per_minute=10)
    assert http.post("/v1/chat/completions", headers=thrifty, json=ASKED).status_code == 200
    assert http.post("/v1/chat/completions", headers=thrifty, json=ASKED).status_code == 429


def test_a_tenants_keys_share_its_limit_on_all_servers(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    done = CliRunner().invoke(build_app(), ["keys", "create", "acme", "--store", store])
    assert done.exit_code == 0, done.output
    limited = CliRunner().invoke(build_app(), ["keys", "limit", "acme", "--requests-per-minute", "4", "--store", store])
    assert limited.stdout == "Tenant acme: requests per minute 4.\n"
    servers = [make_server(store, require_keys=True) for _ in range(2)]
    with running(servers[0]) as one, running(servers[1]) as two:
        opens = [key(servers[0], "acme"), key(servers[1], "acme"), key(servers[1], "other")]
        asked = [(one, opens[0]), (two, opens[1])] * 3
        replies = [httpx.get(f"{url}/v1/models", headers=headers) for url, headers in asked]
        assert [reply.status_code for reply in replies] == [200] * 4 + [429] * 2
        assert replies[-1].json()["error"]["message"] == "This tenant has used up this minute's requests."
        assert httpx.get(f"{two}/v1/models", headers=opens[2]).status_code == 200


def test_of_past_turns_only_those_that_are_taken_count(server: Server, http: httpx.Client) -> None:
    free, thrifty = key(server, "tracing"), key(server, "tracing", tokens_per_minute=1000)
    long = " ".join(f"The bus was late on day {n}." for n in range(500))
    for text in (long, "I live in Lisbon."):
        http.post("/v1/sessions/s/observe", headers=free, json={"text": text}).raise_for_status()
    http.post("/v1/chat/completions", headers=free, json=ASKED | {"memory": {"session": "s"}}).raise_for_status()
    asked = {"version": 4, "past": [{"version": 2}, {"version": 3}]}
    traced = http.post("/v1/sessions/s/sources", headers=thrifty, json=asked)
    assert [turn["version"] for turn in traced.json()["data"]] == [3]
    assert http.get("/v1/models", headers=thrifty).status_code == 200


def test_only_allowed_origins_are_told_so(http: httpx.Client) -> None:
    allowed = http.get("/healthz", headers={"Origin": "https://chat.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    assert "access-control-allow-origin" not in http.get("/healthz", headers={"Origin": "https://evil.example"}).headers


def test_logs_hold_no_text(server: Server, http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    from deltamem.serve.logs import JsonFormatter

    with caplog.at_level(logging.INFO):
        body = {"messages": [{"role": "user", "content": "My password is swordfish."}]}
        http.post("/v1/chat/completions", headers=key(server, "logged"), json=body)
        http.post("/v1/chat/completions", headers=key(server, "logged"), json=body | {"swordfish": 1})
    lines = [JsonFormatter().format(record) for record in caplog.records]
    mine = [line for line in lines if '"tenant": "logged"' in line]
    assert any('"completion_tokens"' in line for line in mine)
    assert not any("swordfish" in line or "dm_" in line for line in lines)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.9.1", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.5", False), ("example.com", False), ("127.0.0.1.example.com", False)],
)  # fmt: skip
def test_a_public_address_needs_keys(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    Settings(secret=SECRET, host=host, require_keys=True)
    if not local:
        with pytest.raises(ValueError, match="no API key"):
            Settings(secret=SECRET, host=host)


def test_the_keys_command(tmp_path: Any) -> None:
    runner, store = CliRunner(), f"sqlite:///{tmp_path / 'sessions.db'}"
    made = runner.invoke(build_app(), ["keys", "create", "acme", "--store", store, "--label", "support"])
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip().splitlines()[-1]
    listed = runner.invoke(build_app(), ["keys", "list", "--store", store]).stdout
    assert "acme" in listed
    assert "active  write  never used  support" in listed
    assert secret not in listed
    name = listed.split()[0]
    assert runner.invoke(build_app(), ["keys", "revoke", name, "--store", store]).exit_code == 0
    assert "revoked" in runner.invoke(build_app(), ["keys", "list", "--store", store]).stdout


def test_keys_are_made_and_revoked_under_a_running_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltamem.serve.access.LOOK_EVERY", 0.05)
    store = f"sqlite:///{tmp_path / 'sessions.db'}"

    def keys(command: str, *arguments: str) -> str:
        done = CliRunner().invoke(build_app(), ["keys", command, *arguments, "--store", store])
        assert done.exit_code == 0, done.output
        return done.stdout

    with running(make_server(store)) as url, httpx.Client(base_url=url, timeout=60) as http:
        asked = {"json": ASKED, "headers": {"X-Memory-Session": "ravi"}}
        assert http.post("/v1/chat/completions", **asked).status_code == 200
        secret = keys("create", "acme").strip()
        until = time.monotonic() + 30
        while (reply := http.get("/v1/models")).status_code == 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert reply.json()["error"]["code"] == "missing_api_key"
        assert http.get("/page.json").json()["needs_key"]
        opens = {"Authorization": f"Bearer {secret}"}
        assert http.get("/v1/sessions", headers=opens).json()["data"] == []  # those of before are the local tenant's
        keys("revoke", keys("list").split()[0])
        # At once, and for good: a server whose last key was revoked is not open again.
        assert http.get("/v1/sessions", headers=opens).json()["error"]["code"] == "invalid_api_key"
        time.sleep(0.1)
        assert http.get("/v1/models").status_code == 401
