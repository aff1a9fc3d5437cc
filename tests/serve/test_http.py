import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from serving import make_server, running

from deltamem.serve.server import Server
from deltamem.serve.settings import EngineLimits
from deltamem.store import Commit

TOLD = [{"role": "user", "content": "I live in Lisbon."}]
ASKED = [{"role": "user", "content": "Where do I live?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    path = tmp_path_factory.mktemp("serve") / "sessions.db"
    return make_server(f"sqlite:///{path}", limits=EngineLimits(max_batch=8, queue=16), max_body=100_000)


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with running(server) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: list[Any], session: str | None = None, **options: Any) -> Any:
    headers = {"X-Memory-Session": session} if session else {}
    return client.chat.completions.create(
        model="demo", messages=messages, temperature=0, extra_headers=headers, **options
    )


def test_what_one_request_tells_another_remembers(client: openai.OpenAI) -> None:
    told = ask(client, TOLD, "ravi")
    assert told.memory["written_tokens"] > 5
    answer = ask(client, ASKED, "ravi")
    assert answer.choices[0].message.content == "Lisbon."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.memory["version"] == told.memory["version"] + 1
    assert ask(client, ASKED, "mina").choices[0].message.content != "Lisbon."


def test_the_body_names_a_session_too(client: openai.OpenAI) -> None:
    ask(client, TOLD, extra_body={"memory": {"session": "body"}})
    before = client.get("/sessions/body", cast_to=httpx.Response).json()
    read = ask(client, ASKED, extra_body={"memory": {"session": "body", "mode": "read_only"}})
    assert read.choices[0].message.content == "Lisbon."
    off = ask(client, ASKED, extra_body={"memory": {"session": "body", "mode": "off"}})
    assert off.choices[0].message.content == ask(client, ASKED).choices[0].message.content != "Lisbon."
    assert client.get("/sessions/body", cast_to=httpx.Response).json() == before
    with pytest.raises(openai.NotFoundError):
        ask(client, ASKED, extra_body={"memory": {"session": "nobody", "must_exist": True}})
    with pytest.raises(openai.NotFoundError):
        ask(client, ASKED, extra_body={"memory": {"session": "nobody", "mode": "read_only"}})


def test_a_stream_comes_by_token_and_ends_once_it_is_kept(client: openai.OpenAI, server: Server) -> None:
    ask(client, TOLD, "stream")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    pieces, last, seen = [], None, 0
    for chunk in ask(client, ASKED, "stream", **options):
        if not chunk.choices:
            last = chunk
            continue
        if chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
        if chunk.choices[0].finish_reason:
            seen = server.store.get("default", "stream").head
            assert chunk.choices[0].finish_reason == "stop"
            assert chunk.memory["version"] == seen == 3
    assert pieces == ["Lisbon", "."]
    assert seen == 3
    assert last is not None
    assert last.usage.completion_tokens == 3
    log = client.get("/sessions/stream/messages", cast_to=httpx.Response).json()
    assert [m["content"] for m in log["data"]][-2:] == ["Where do I live?", "Lisbon."]


def test_only_what_is_new_is_written(client: openai.OpenAI, server: Server) -> None:
    answer = ask(client, [{"role": "system", "content": "Be brief."}, *TOLD], "new").choices[0].message.content
    history = [{"role": "system", "content": "Be brief."}, *TOLD, {"role": "assistant", "content": answer}, *ASKED]
    ask(client, history, "new")
    log = [m.message["content"] for m in server.store.messages("default", "new")]
    assert log == ["I live in Lisbon.", answer, "Where do I live?", "Lisbon."]


def test_history_that_does_not_fit_is_left_to_the_memory(client: openai.OpenAI) -> None:
    long = [*TOLD, {"role": "assistant", "content": "Understood."}] * 60
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, [*long, *ASKED])
    assert refused.value.code == "context_length_exceeded"
    assert ask(client, [*long, *ASKED], "long").memory["dropped_messages"] > 50


def test_what_an_engine_does_not_do_is_no_matter_of_length(
    client: openai.OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*args: object, **options: object) -> None:
        raise ValueError("This engine has no colours.")

    monkeypatch.setattr(server.engine, "generate", refuses)
    with pytest.raises(openai.BadRequestError, match="no colours") as refused:
        ask(client, ASKED)
    assert refused.value.code == "invalid_value"


def test_several_answers_logprobs_and_stops(client: openai.OpenAI) -> None:
    answer = ask(client, ASKED, n=3, seed=1, logprobs=True, top_logprobs=2, max_completion_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    drawn = {"temperature": 1.8, "seed": 5, "max_tokens": 8}
    texts = [
        client.chat.completions.create(model="", messages=ASKED, n=2, **drawn).choices
        for _ in range(2)  # type: ignore[call-overload]
    ]
    assert [c.message.content for c in texts[0]] == [c.message.content for c in texts[1]]
    whole = answer.choices[0].message.content
    stopped = ask(client, ASKED, stop=[whole[3:5]], max_tokens=4)
    assert stopped.choices[0].message.content == whole[: whole.index(whole[3:5])]
    with pytest.raises(openai.BadRequestError, match="n must be 1"):
        ask(client, ASKED, "several", n=2)


def test_completions(client: openai.OpenAI) -> None:
    greedy: Any = {"model": "demo", "max_tokens": 5, "temperature": 0}
    whole = client.completions.create(prompt=["I live", "My cat"], logprobs=2, **greedy)
    assert [choice.index for choice in whole.choices] == [0, 1]
    probed = whole.choices[0].logprobs
    assert len(probed.tokens) == len(probed.token_logprobs) == len(probed.text_offset)
    streamed = client.completions.create(prompt="I live", stream=True, **greedy)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == whole.choices[0].text
    kept = {"memory": {"session": "text"}}
    ids = client.completions.create(model="demo", prompt=[5, 6, 7], max_tokens=1, seed=1, extra_body=kept)
    assert ids.memory["written_tokens"] == 4
    with pytest.raises(openai.BadRequestError, match="Token ids"):
        client.completions.create(model="demo", prompt=[99999], max_tokens=1)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_a_client_can_carry_the_memory_itself(client: openai.OpenAI, http: httpx.Client) -> None:
    told = ask(client, TOLD, extra_body={"return_state": True})
    state = told.memory["state"]
    asked = ask(client, ASKED, extra_body={"memory": {"state": state, "return_state": True}})
    assert asked.choices[0].message.content == "Lisbon."
    assert asked.memory["state"] != state
    prefix, body, signature = state.split(".")
    raw = bytearray(base64.urlsafe_b64decode(body))
    raw[-5] ^= 1
    forged = ".".join((prefix, base64.urlsafe_b64encode(bytes(raw)).decode(), signature))
    for bad in (forged, state[:-9], state[:200], "", "dms1..", "é" * 9, f"{prefix}.{body}.{signature[:-4]}AAA="):
        reply = http.post("/v1/chat/completions", json={"messages": ASKED, "memory": {"state": bad}})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_state"), bad[:20]


def test_a_request_that_writes_nothing_hands_back_the_state_it_was_given(client: openai.OpenAI) -> None:
    state = ask(client, TOLD, extra_body={"return_state": True}).memory["state"]
    for mode in ("off", "read_only"):
        memory = {"state": state, "mode": mode, "return_state": True}
        assert ask(client, ASKED, extra_body={"memory": memory}).memory["state"] == state
    for wrong in ({"state": f"{state[:-8]}AAAAAAA="}, {"session": "ravi"}):
        with pytest.raises(openai.BadRequestError):
            ask(client, ASKED, extra_body={"memory": {**wrong, "mode": "off", "return_state": True}})


def test_the_life_of_a_session(http: httpx.Client) -> None:
    def call(method: str, path: str, status: int = 200, **options: Any) -> Any:
        reply = http.request(method, f"/v1/sessions{path}", **options)
        assert reply.status_code == status, reply.text
        return reply.json()

    made = call("POST", "", 201, json={"session": "life", "label": "Ravi of Lisbon"})
    assert (made["version"], made["tokens_written"]) == (1, 0)
    call("POST", "", 409, json={"session": "life"})
    observed = call("POST", "/life/observe", json={"text": "I live in Lisbon. " * 100})
    assert observed["written_tokens"] > 500
    call(
        "POST", "/life/observe", json={"messages": [{"role": "user", "content": "I live in Rome."}], "roles": ["user"]}
    )
    detail = call("GET", "/life")
    assert (detail["version"], detail["versions"]) == (3, 3)
    assert len(detail["norms"]) == 6
    assert len(detail["norms"][0]) == 4
    assert [s["id"] for s in call("GET", "?search=lisbon")["data"]] == ["life"]
    memory = call("GET", "/life/memory?since=2")
    assert sum(map(sum, memory["change"])) > 0
    assert len(memory["states"][0][0]) == 8
    fork = call("POST", "/life/fork", 201, json={"session": "fork", "version": 2})
    assert fork["forked_from"] == "life@2"
    assert call("POST", "/life/rollback", json={"version": 2})["tokens_written"] == fork["tokens_written"]
    kinds = [version["kind"] for version in call("GET", "/life/timeline")["data"]]
    assert kinds == ["rollback", "observe", "observe", "create"]
    exported = call("GET", "/life/export")
    assert call("GET", "/fork/export")["state"] == exported["state"]
    call("POST", "/copy/import", json={"state": exported["state"]})
    assert call("GET", "/copy/memory")["states"] == call("GET", "/life/memory")["states"]
    assert call("POST", "/life/freeze", json={})["frozen"]
    assert call("POST", "/life/observe", 409, json={"text": "x"})["error"]["code"] == "session_frozen"
    call("POST", "/life/freeze", json={"frozen": False})
    changed = call("PATCH", "/life", json={"label": None, "expires_in": 60})
    assert changed["label"] is None
    assert changed["expires"] > changed["created"]
    assert call("PATCH", "/life", json={}) == changed
    assert call("GET", "/life").items() >= changed.items()
    for name in ("life", "fork", "copy"):
        assert call("DELETE", f"/{name}")["deleted"]
        call("GET", f"/{name}", 404)


def test_an_exported_file_is_one_that_a_session_loads(http: httpx.Client, server: Server, tmp_path: Path) -> None:
    from deltamem import load_state

    http.post("/v1/sessions/file/observe", json={"text": "I live in Lisbon."})
    reply = http.get("/v1/sessions/file/export", params={"format": "file"})
    path = tmp_path / "ravi.safetensors"
    path.write_bytes(reply.content)
    assert int(load_state(path, server.engine.model).tokens[0]) > 5


def test_a_memory_that_overflows_is_not_written(http: httpx.Client, server: Server) -> None:
    empty = server.engine.new_state()
    huge = replace(empty, states=tuple(torch.full_like(matrices, 1e25) for matrices in empty.states))
    state = server.signer.sign(server.states.pack(huge), "default")
    http.post("/v1/sessions", json={"session": "huge", "state": state}).raise_for_status()
    refused = http.post("/v1/sessions/huge/observe", json={"text": "I live in Lisbon."})
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "memory_overflow")
    assert len(http.get("/v1/sessions/huge/timeline").json()["data"]) == 1


def test_turns_of_one_session_wait_for_one_another(http: httpx.Client) -> None:
    body = {"messages": TOLD, "temperature": 0, "memory": {"session": "busy"}}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: http.post("/v1/chat/completions", json=body), range(8)))
    assert [reply.status_code for reply in replies] == [200] * 8
    assert sorted(reply.json()["memory"]["version"] for reply in replies) == list(range(2, 10))


def test_another_process_that_writes_first_is_a_conflict(
    http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.post("/v1/sessions", json={"session": "race"})
    head = server.store.load("default", "race")
    commit_all = server.store.commit_all

    def after_another(commits: Any) -> Any:
        server.store.commit(Commit("default", "race", parent=1, state=head.state, tokens=0))
        return commit_all(commits)

    monkeypatch.setattr(server.store, "commit_all", after_another)
    body = {"messages": TOLD, "temperature": 0, "stream": True, "memory": {"session": "race"}}
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = list(reply.iter_lines())
    *_, last = (json.loads(line[6:]) for line in lines if line.startswith("data: {"))
    assert last["error"]["code"] == "session_conflict"
    assert "data: [DONE]" not in lines
    assert server.store.get("default", "race").head == 2
    assert "deltamem_conflicts_total 1.0" in http.get("/metrics").text


def test_a_client_that_leaves_frees_its_row_and_changes_nothing(http: httpx.Client, server: Server) -> None:
    http.post("/v1/sessions", json={"session": "gone"})
    body = {"messages": ASKED, "temperature": 2, "max_tokens": 450, "memory": {"session": "gone"}, "seed": 3}
    ends = server.engine._ends
    server.engine._ends = frozenset()
    try:
        with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as reply:
            next(reply.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=body, timeout=0.1)
        until = time.monotonic() + 60
        while server.engine.load().decoding and time.monotonic() < until:
            time.sleep(0.02)
        assert server.engine.load().decoding == 0
        late = http.post("/v1/chat/completions", json=body, headers={"X-Request-Timeout": "0.1"})
        assert late.status_code == 504
    finally:
        server.engine._ends = ends
    assert server.store.get("default", "gone").head == 1


def test_too_much_at_once_is_refused_with_a_time_to_return(http: httpx.Client) -> None:
    body = {"messages": ASKED, "n": 16, "max_tokens": 60, "temperature": 2, "ignore_eos": True}
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: http.post("/v1/chat/completions", json=body), range(6)))
    refused = [reply for reply in replies if reply.status_code != 200]
    assert refused
    for reply in refused:
        assert reply.status_code == 429
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.json()["error"]["type"] == "rate_limit_error"


MALFORMED: list[tuple[str, bytes]] = [
    ("not JSON", b"{"),
    ("not an object", b"[1, 2]"),
    ("bad UTF-8", b'{"messages": [{"role": "user", "content": "\xff"}]}'),
    ("half a character", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
    ("deep nesting", b'{"messages": ' + b"[" * 20_000),
    ("no messages", b'{"messages": []}'),
    ("wrong role", b'{"messages": [{"role": "king", "content": "x"}]}'),
    ("wrong type", b'{"messages": [{"role": "user", "content": 5}]}'),
    ("unknown field", b'{"messages": [{"role": "user", "content": "x"}], "temprature": 1}'),
    ("NaN", b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'),
    ("huge number", b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e400}'),
    ("an image", b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}'),
    ("tools", b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}'),
    ("a path", b'{"messages": [{"role": "user", "content": "x"}], "memory": {"session": "../../etc/passwd"}}'),
    ("a newline", b'{"messages": [{"role": "user", "content": "x"}], "memory": {"session": "a\\n"}}'),
    ("a dot", b'{"messages": [{"role": "user", "content": "x"}], "memory": {"session": ".."}}'),
    ("two memories", b'{"messages": [{"role": "user", "content": "x"}], "memory": {"session": "a", "state": "b"}}'),
]


@pytest.mark.parametrize(("what", "body"), MALFORMED, ids=[what for what, _ in MALFORMED])
def test_malformed_requests_are_refused_with_a_reason(http: httpx.Client, what: str, body: bytes) -> None:
    reply = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "Traceback" not in reply.text


def test_odd_requests_get_odd_statuses_and_no_traceback(http: httpx.Client) -> None:
    huge = json.dumps({"messages": [{"role": "user", "content": "x" * 200_000}]})
    assert http.post("/v1/chat/completions", content=huge).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    assert http.post("/v1/chat/completions", content=chunks()).status_code == 413
    nothing = http.get("/v1/nothing").json()["error"]
    assert (nothing["type"], nothing["code"]) == ("not_found_error", "not_found")
    assert nothing["message"] == "There is nothing at GET /v1/nothing; /openapi.json lists what there is."
    without_v1 = http.post("/chat/completions", json={"messages": ASKED})
    assert without_v1.status_code == 404
    assert without_v1.json()["error"]["message"].endswith("; the base URL for OpenAI's clients ends in /v1.")
    refused = http.put("/v1/sessions")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, POST")
    assert refused.json()["error"]["message"] == "There is no PUT /v1/sessions; this path takes GET, POST."
    assert http.get("/v1/sessions/%2e%2e").status_code in (400, 404)
    assert http.get("/v1/sessions?after=nonsense").status_code == 400
    assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert (
        http.post("/v1/chat/completions", json={"messages": ASKED}, headers={"X-Request-Timeout": "soon"}).status_code
        == 400
    )
    form = http.post("/v1/sessions", data={"session": "form"})
    assert (form.status_code, form.json()["error"]["code"]) == (400, "invalid_body")
    wrong = http.post(
        "/v1/chat/completions", content=json.dumps({"messages": ASKED}), headers={"Content-Type": "text/plain"}
    )
    assert wrong.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "kind"),
    [
        ("POST", "/v1/messages", {"json": {"messages": []}}, 400, "invalid_request_error"),
        ("POST", "/v1/messages", {"content": b"{"}, 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", {"content": b" " * 200_000}, 413, "request_too_large"),
        ("POST", "/v1/messages/batches", {"json": {}}, 404, "not_found_error"),
        ("GET", "/v1/messages", {}, 405, "invalid_request_error"),
        ("POST", "/v1/messages", {"json": {}, "headers": {"Host": "evil.example"}}, 403, "permission_error"),
        (
            "POST",
            "/v1/messages",
            {"json": {"messages": ASKED, "max_tokens": 400}, "headers": {"X-Request-Timeout": "0.001"}},
            504,
            "timeout_error",
        ),
    ],
)
def test_a_refusal_in_anthropics_dialect_is_one_of_its_errors(
    http: httpx.Client, method: str, path: str, options: dict[str, Any], status: int, kind: str
) -> None:
    refused = http.request(method, path, **options)
    assert refused.status_code == status
    assert (refused.json()["type"], refused.json()["error"]["type"]) == ("error", kind)
    assert refused.headers["request-id"] == refused.headers["X-Request-ID"]


def test_what_needs_no_field_needs_no_body(http: httpx.Client) -> None:
    session = http.post("/v1/sessions").json()["session"]
    assert http.post(f"/v1/sessions/{session}/freeze").json()["frozen"]
    assert http.post(f"/v1/sessions/{session}/fork").json()["forked_from"] == f"{session}@1"
    recalled = http.post(f"/v1/sessions/{session}/recall")
    assert not any(one["known"] for one in recalled.json()["data"])
    assert http.post(f"/v1/sessions/{session}/rollback").status_code == 400


def test_request_ids_are_taken_over_only_if_they_are_harmless(http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"X-Request-ID": "abc-1.2"}).headers["X-Request-ID"] == "abc-1.2"
    for bad in ("a b", "x" * 65, '"{}', "a\tb"):
        assert len(http.get("/healthz", headers={"X-Request-ID": bad}).headers["X-Request-ID"]) == 32


def test_health_readiness_and_metrics(http: httpx.Client, client: openai.OpenAI) -> None:
    ask(client, TOLD, "metrics")
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    text = http.get("/metrics").text
    for name in ("request_seconds", "first_token_seconds", "tokens_per_second", "jobs", "batch_rows", "state_writes"):
        assert f"# TYPE deltamem_{name}" in text or f"# TYPE deltamem_{name}_total" in text, name
    assert 'deltamem_tokens_total{kind="written"}' in text
    assert 'deltamem_requests_total{method="POST",route="/v1/chat/completions",status="200"}' in text
    assert "metrics" not in [line for line in text.splitlines() if "session" in line]
    assert "access-control-allow-origin" not in http.get("/healthz", headers={"Origin": "http://a.b"}).headers


def test_threads_of_openai_clients_at_once(client: openai.OpenAI) -> None:
    names = ["Lisbon", "Oslo", "Rome", "Paris"]
    wrong: list[str] = []

    def live(number: int) -> None:
        place, session = names[number % 4], f"thread{number}"
        ask(client, [{"role": "user", "content": f"I live in {place}."}], session)
        got = ask(client, ASKED, session).choices[0].message.content
        alone = ask(client, ASKED, extra_body={"memory": {"session": session, "mode": "read_only"}})
        wrong.extend([got] * (not isinstance(got, str) or alone is None))
        answers[number] = got

    answers: dict[int, str] = {}
    threads = [threading.Thread(target=live, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert answers[0] == "Lisbon."
    for number in range(4):
        assert answers[number] == answers[number + 4]
