"""Everything of a tenant or of a user is exported and deleted in one call, by an admin's key alone."""

import base64
import json
from typing import Any

import httpx
import pytest
from serving import make_server

from deltamem.serve.server import Server
from deltamem.store import ApiKeys, AuditLog, Scope


@pytest.fixture(scope="module")
def server() -> Server:
    return make_server(require_keys=True, audit=True)


def opens(server: Server, tenant: str, scope: Scope = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer {ApiKeys(server.store).create(tenant, scope=scope).secret}"}


def tell(http: httpx.Client, headers: dict[str, str], session: str, user: str, text: str) -> None:
    told = http.post(f"/v1/sessions/{session}/observe", headers=headers | {"X-Memory-User": user}, json={"text": text})
    told.raise_for_status()


def lines(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def test_everything_is_exported_and_deleted_in_one_call(server: Server, http: httpx.Client) -> None:
    admin, other = opens(server, "rights"), opens(server, "other")
    tell(http, admin, "a", "ravi", "I live in Lisbon.")
    tell(http, admin, "b", "ravi", "I have a dog.")
    tell(http, admin, "c", "mia", "I live in Oslo.")
    tell(http, other, "a", "ravi", "I live in Kyoto.")
    found = lines(http.get("/v1/users/ravi/export", headers=admin))
    sessions = [line for line in found if line["object"] == "session"]
    assert [one["session"] for one in sessions] == ["b", "a"]
    assert sessions[1]["messages"][0]["message"]["content"] == "I live in Lisbon."
    raw = http.get("/v1/sessions/a/export", headers=admin, params={"format": "file"}).content
    assert base64.b64decode(sessions[1]["versions"][-1]["state"]) == raw
    assert found[-1] == {"object": "end", "sessions": 2}
    assert lines(http.get("/v1/tenants/rights/export", headers=admin))[-1]["sessions"] == 3

    assert http.delete("/v1/users/ravi", headers=admin).json() == {"id": "ravi", "sessions": 2, "deleted": True}
    assert [one["session"] for one in http.get("/v1/sessions", headers=admin).json()["data"]] == ["c"]
    assert http.delete("/v1/tenants/rights", headers=admin).json()["sessions"] == 1
    assert http.get("/v1/sessions", headers=admin).status_code == 401  # its keys are gone too
    assert [one["session"] for one in http.get("/v1/sessions", headers=other).json()["data"]] == ["a"]
    noted = [(one.action, one.user) for one in AuditLog(server.store).read("rights") if "sessions" not in one.route]
    assert noted == [("export", "ravi"), ("export", None), ("delete", "ravi"), ("delete", None)]


def test_only_an_admin_of_the_tenant_may(server: Server, http: httpx.Client) -> None:
    tell(http, opens(server, "guarded"), "a", "ravi", "I live in Lisbon.")
    refused: list[tuple[dict[str, str], int, tuple[str, ...]]] = [
        (opens(server, "guarded", "write"), 403, ("/v1/users/ravi", "/v1/tenants/guarded")),
        (opens(server, "stranger"), 404, ("/v1/tenants/guarded",)),
    ]
    for headers, status, paths in refused:
        for path in paths:
            assert http.get(f"{path}/export", headers=headers).status_code == status
            assert http.delete(path, headers=headers).status_code == status
    assert http.delete("/v1/users/ravi", headers=opens(server, "stranger")).json()["sessions"] == 0
    assert http.get("/v1/sessions/a", headers=opens(server, "guarded")).status_code == 200
