"""Memories that leave a server and come back, and the names that sessions go by."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import make_server, running

from deltamem.attach import attached
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.formats.state import StateInfo, pack_state, state_to_bytes


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with running(make_server()) as url, httpx.Client(base_url=f"{url}/v1", timeout=60) as client:
        client.post("/sessions/ravi/observe", json={"text": "I live in Lisbon."}).raise_for_status()
        yield client


def norms(http: httpx.Client, session: str) -> Any:
    return http.get(f"/sessions/{session}").json()["norms"]


def test_what_export_gives_import_takes(http: httpx.Client) -> None:
    exported = http.get("/sessions/ravi/export").json()
    assert exported["session"] == exported["id"] == "ravi"
    for name, body in (("whole", exported), ("state", {"state": exported["state"]})):
        made = http.post(f"/sessions/{name}/import", json=body)
        assert made.status_code == 200, made.text
        assert made.json()["session"] == name
        assert norms(http, name) == norms(http, "ravi")
    refused = http.post("/sessions/whole/import", json={**exported, "colour": "red"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "colour"
    assert http.post("/sessions/whole/import", json={"id": "ravi"}).json()["error"]["param"] == "state"


def test_a_file_comes_back_as_it_went(http: httpx.Client) -> None:
    file = http.get("/sessions/ravi/export", params={"format": "file"}).content
    as_file = {"Content-Type": "application/octet-stream"}
    assert http.post("/sessions/file/import", content=file, headers=as_file).status_code == 200
    assert norms(http, "file") == norms(http, "ravi")
    for data in (b"", file[:-5], b"x" * 100):
        refused = http.post("/sessions/file/import", content=data, headers=as_file)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_state")
    as_curl_sends_it = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = http.post("/sessions/file/import", content=file, headers=as_curl_sends_it)
    assert refused.status_code == 400
    assert "Send a file as application/octet-stream." in refused.json()["error"]["message"]
    broken = http.post("/sessions/file/import", content=b'{"state": ').json()["error"]
    assert broken["code"] == "invalid_body"
    assert broken["message"].endswith("line 1 column 10.")
    model, _ = load_backbone()
    load_demo_adapter(model, "token")
    other = state_to_bytes(attached(model).new_state(1), model)
    refused = http.post("/sessions/file/import", content=other, headers=as_file)
    assert refused.status_code == 400
    assert "another adapter" in refused.json()["error"]["message"]
    half = pack_state(attached(model).new_state(1), StateInfo("\ud800", None, (0,)))
    refused = http.post("/sessions/file/import", content=half, headers=as_file)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_state")
    unknown = http.get("/sessions/ravi/export", params={"format": "zip"}).json()["error"]["message"]
    assert "'signed' or 'file'" in unknown


@pytest.mark.parametrize("name", ["ravi@home", "a b", "x" * 129])
def test_a_name_that_is_none_is_told_in_words(http: httpx.Client, name: str) -> None:
    said = [{"role": "user", "content": "Hello!"}]
    for refused in (
        http.post("/chat/completions", json={"messages": said, "memory": {"session": name}}),
        http.post("/sessions", json={"session": name}),
        http.get(f"/sessions/{name}"),
    ):
        assert refused.status_code == 400
        message = refused.json()["error"]["message"]
        assert "128" in message
        assert "^[" not in message


def test_sessions_are_found_by_their_names_too(http: httpx.Client) -> None:
    http.post("/sessions", json={"session": "Team.Blue_1", "label": "Colours"}).raise_for_status()
    http.post("/sessions", json={"session": "team.red", "label": "blue_ish"}).raise_for_status()

    def found(text: str) -> list[str]:
        return sorted(one["session"] for one in http.get("/sessions", params={"search": text}).json()["data"])

    assert found("TEAM") == ["Team.Blue_1", "team.red"]
    assert found("blue_") == ["Team.Blue_1", "team.red"]
    assert found("colour") == ["Team.Blue_1"]
    assert found("%") == []


def test_an_answer_says_which_memory_it_used(http: httpx.Client) -> None:
    def mode(**memory: Any) -> str:
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1, "memory": memory}
        said: str = http.post("/chat/completions", json=body).json()["memory"]["mode"]
        return said

    assert mode() == "off"
    assert mode(return_state=True) == "read_write"
    assert mode(session="mode") == "read_write"
    assert mode(session="mode", mode="read_only") == "read_only"
