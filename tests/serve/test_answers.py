"""What every answer has: the headers that browsers want, an answer to HEAD, streams that are never silent for long."""

import threading
import time
from typing import Any

import httpx
import pytest
from serving import SECRET, make_server, running
from transformers import GenerationConfig

from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore

PAGE = "https://page.example"
HI = {"role": "user", "content": "Hello!"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    path = tmp_path_factory.mktemp("answers") / "sessions.db"
    return make_server(f"sqlite:///{path}", allow_origins=(PAGE,), max_body=2000)


def test_a_page_of_an_allowed_origin_may_read_every_answer(http: httpx.Client) -> None:
    too_large = {"messages": [{"role": "user", "content": "x" * 3000}]}
    for answer, status in (
        (http.post("/v1/chat/completions", json=too_large, headers={"Origin": PAGE}), 413),
        (http.post("/v1/chat/completions", json={}, headers={"Origin": PAGE}), 400),
        (http.get("/v1/models", headers={"Origin": PAGE, "Host": "elsewhere.example"}), 403),
        (http.get("/nowhere", headers={"Origin": PAGE}), 404),
        (http.get("/v1/models", headers={"Origin": PAGE}), 200),
    ):
        assert (answer.status_code, answer.headers.get("Access-Control-Allow-Origin")) == (status, PAGE)
        assert answer.headers["X-Request-ID"]
    assert "Access-Control-Allow-Origin" not in http.get("/v1/models", headers={"Origin": "https://other"}).headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/models", "/metrics", "/page.json", "/page/app.js"])
def test_head_is_get_without_the_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert http.get("/healthz").json() == {"status": "ok"}  # the connection is still good


def test_head_of_what_cannot_be_got_is_refused(http: httpx.Client) -> None:
    assert http.head("/v1/chat/completions").status_code == 405
    assert 'method="HEAD"' in http.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "waits_for"),
    [
        ("chat/completions", "session"),
        ("chat/completions", "commit"),
        ("messages", "session"),
        ("responses", "session"),
    ],
)
def test_a_stream_that_waits_says_that_it_is_there(
    http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch, path: str, waits_for: str
) -> None:
    monkeypatch.setattr("deltamem.serve.routes.common.SILENCE", 0.1)
    monkeypatch.setattr("deltamem.serve.routes.answering.SILENCE", 0.1)
    commit_all, held, heard = server.store.commit_all, threading.Event(), threading.Event()

    def slow(commits: Any) -> Any:
        held.set()
        assert heard.wait(60)
        return commit_all(commits)

    def follow(stream: httpx.Response) -> list[str]:
        """The lines; the commit is over once three of them have said that the stream is there."""
        seen = []
        for line in stream.iter_lines():
            seen.append(line)
            if sum(line.startswith(":") for line in seen) == 3:
                heard.set()
        return seen

    monkeypatch.setattr(server.store, "commit_all", slow)
    session = f"{path.partition('/')[0]}-{waits_for}"
    said = {"input": "Hi."} if path == "responses" else {"messages": [HI], "max_tokens": 2}
    body = {**said, "temperature": 0, "memory": {"session": session}, "stream": True}
    with http.stream("POST", f"/v1/{path}", json=body) as stream:
        if waits_for == "session":
            assert held.wait(60)
            with http.stream("POST", f"/v1/{path}", json=body) as second:
                seen = follow(second)
            stream.read()
        else:
            seen = follow(stream)
    assert seen[0].startswith(":") == (waits_for == "session")
    events = [line for line in seen if line.startswith("data:")]
    if path == "chat/completions":
        assert events.pop() == "data: [DONE]"
    last = {"chat/completions": '"finish_reason": "', "messages": '"message_stop"', "responses": '"response.completed"'}
    assert last[path] in events[-1]
    assert http.get(f"/v1/sessions/{session}").json()["version"] == (3 if waits_for == "session" else 2)


def test_a_stream_whose_turn_never_came_ends_in_an_error(
    http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltamem.serve.routes.answering.SILENCE", 0.1)
    commit_all, held, over = server.store.commit_all, threading.Event(), threading.Event()

    def slow(commits: Any) -> Any:
        held.set()
        assert over.wait(60)
        return commit_all(commits)

    monkeypatch.setattr(server.store, "commit_all", slow)
    body = {"messages": [HI], "max_tokens": 1, "temperature": 0, "stream": True, "memory": {"session": "late"}}
    with http.stream("POST", "/v1/chat/completions", json=body) as first:
        assert held.wait(60)
        late = http.post("/v1/chat/completions", json=body, headers={"X-Request-Timeout": "2"})
        over.set()
        first.read()
    assert late.status_code == 200
    assert "deadline_exceeded" in late.text
    assert "[DONE]" not in late.text
    # The turn ends when the server has closed the stream, which may be after the client has read its end.
    limit = time.monotonic() + 60
    while len(server.turns) and time.monotonic() < limit:
        time.sleep(0.02)
    assert len(server.turns) == 0


def served_with(**generation: Any) -> Server:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, **generation)
    return Server(model, tokenizer, SessionStore.open("sqlite://"), Settings(secret=SECRET, max_tokens=12))


def test_a_request_samples_as_the_model_wants_unless_it_says_otherwise() -> None:
    """At temperature 2 twelve tokens are never twice the same; of the one likeliest they always are."""
    server = served_with(temperature=2.0, top_k=1)
    assert (server.sampling.temperature, server.sampling.top_k, server.sampling.top_p) == (2.0, 1, 1.0)
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:

        def answers(**options: Any) -> int:
            body = {"messages": [HI], "ignore_eos": True, **options}
            told = [http.post("/v1/chat/completions", json=body).json() for _ in range(3)]
            return len({one["choices"][0]["message"]["content"] for one in told})

        assert answers() == 1
        assert answers(top_k=0) == 3
        assert answers(top_k=-1, min_p=1.0) == 1
        assert answers(top_k=-1, repetition_penalty=1.3) == 3
        refused = http.post("/v1/chat/completions", json={"messages": [HI], "repetition_penalty": 0})
        assert refused.status_code == 400


def test_what_a_model_wants_and_nobody_can_do_is_told_at_the_start() -> None:
    with pytest.raises(ValueError, match="generation_config cannot be served: min_p must lie between 0 and 1"):
        served_with(min_p=7.0)
