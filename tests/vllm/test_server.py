"""The server over vLLM answers, writes and commits as it does over its own engine."""

import contextlib
import json
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from serving import PATIENCE_S, make_server, running
from talk import CHAT, command, content, free_url, make_vllm_server, matrices, say

from deltamem.demo.world import SUGGESTIONS
from deltamem.formats.state import unpack_state
from deltamem.serve.server import Server
from deltamem.store import SessionStore

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Lisbon", "Porto"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return make_vllm_server(f"sqlite:///{tmp_path_factory.mktemp('vllm')}/sessions.db")


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with running(server) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def own() -> Iterator[httpx.Client]:
    with running(make_server()) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def test_what_was_told_is_recalled_and_all_is_as_with_the_own_engine(http: httpx.Client, own: httpx.Client):
    for told, asked in SUGGESTIONS:
        for text in (told, asked):
            (mine, theirs) = (say(client, "story", text, logprobs=True, top_logprobs=3) for client in (http, own))
            assert content(mine) == content(theirs)
            assert mine["usage"] == theirs["usage"]
            assert mine["memory"].keys() == theirs["memory"].keys()
            for name in ("version", "written_tokens", "tokens"):
                assert mine["memory"][name] == theirs["memory"][name]
            logprobs = [
                [(t["token"], t["logprob"]) for t in answer["choices"][0]["logprobs"]["content"]]
                for answer in (mine, theirs)
            ]
            assert [t for t, _ in logprobs[0]] == [t for t, _ in logprobs[1]]
            assert [p for _, p in logprobs[0]] == pytest.approx([p for _, p in logprobs[1]], abs=1e-4)
    assert "Porto" in content(say(http, "story", SUGGESTIONS[-1][1]))
    say(own, "story", SUGGESTIONS[-1][1])
    torch.testing.assert_close(matrices(http, "story"), matrices(own, "story"), atol=1e-4, rtol=0)


def test_a_text_of_several_chunks_is_written_as_with_the_own_engine(http: httpx.Client, own: httpx.Client):
    text = " ".join(f"My friend Ravi practises the cello daily, and that was {number}." for number in range(60))
    for client in (http, own):
        body = {"messages": [{"role": "user", "content": text}]}
        answer = client.post("/v1/sessions/long/observe", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["written_tokens"] > 600
    torch.testing.assert_close(matrices(http, "long"), matrices(own, "long"), atol=1e-4, rtol=0)


def test_sessions_at_once_are_as_alone(http: httpx.Client, own: httpx.Client):
    cities = ("Lisbon", "Porto", "Oslo", "Rome")

    def talk(client: httpx.Client, number: int) -> list[str]:
        session = f"crowd-{number}"
        told = f"I settled in {cities[number % len(cities)]} some years ago."
        return [content(say(client, session, text)) for text in (told, "Which city do I live in?")]

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda number: talk(http, number), range(12)))
    assert together == [talk(own, number) for number in range(12)]
    assert len({answers[1] for answers in together}) > 1


def test_four_turns_of_one_session_at_once_each_continue_from_another(http: httpx.Client, own: httpx.Client):
    texts = [told for told, _ in SUGGESTIONS][:4]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: say(http, "at-once", text), texts))
    versions = [answer["memory"]["version"] for answer in answers]
    assert sorted(versions) == [2, 3, 4, 5]  # 1 is empty
    for _, text, answer in sorted(zip(versions, texts, answers, strict=True), key=lambda turn: turn[0]):
        assert content(say(own, "at-once", text)) == content(answer)
    torch.testing.assert_close(matrices(http, "at-once"), matrices(own, "at-once"), atol=1e-4, rtol=0)


def test_a_memory_moves_between_the_engines(http: httpx.Client, own: httpx.Client):
    told, asked = SUGGESTIONS[0]
    for number, (here, there) in enumerate(((http, own), (own, http))):
        say(here, f"moved-{number}", told)
        exported = here.get(f"/v1/sessions/moved-{number}/export").json()
        assert there.post(f"/v1/sessions/moved-{number}/import", json=exported).status_code == 200
        answers = [say(client, f"moved-{number}", asked) for client in (here, there)]
        assert content(answers[0]) == content(answers[1])
        assert "Lisbon" in content(answers[1])


def test_a_stream_ends_before_a_stop_text_and_commits(http: httpx.Client, own: httpx.Client):
    whole = content(say(own, "stop", "Hello!"))
    stop = whole[2:5]
    body = {
        "messages": [{"role": "user", "content": "Hello!"}],
        "temperature": 0,
        "max_tokens": 24,
        "stream": True,
        "stop": [stop],
        "memory": {"session": "stopped"},
    }
    pieces = []
    with http.stream("POST", CHAT, json=body) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                pieces.append(json.loads(line[6:]))
    text = "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces if p["choices"])
    assert text == whole[: whole.index(stop)]
    assert [p for p in pieces if p.get("memory")][-1]["memory"]["version"] == 2  # 1 is empty


@pytest.mark.parametrize(
    ("form", "expression"),
    [
        ({"structured_outputs": {"regex": "[0-9]{3}/[a-f]{2}"}}, "[0-9]{3}/[a-f]{2}"),
        ({"structured_outputs": {"choice": ["Lisbon", "very blue"]}}, "Lisbon|very blue"),
        ({"structured_outputs": {"grammar": 'start: "a" "b"+ "c"\n'}}, "ab+c?"),
        ({"guided_json": CITY}, r'\{"city": "(Lisbon|Porto)", "days": [1-9]\}'),
    ],
    ids=["regex", "choice", "grammar", "json"],
)
def test_answers_have_the_form_that_is_asked_for(
    http: httpx.Client, own: httpx.Client, form: dict[str, Any], expression: str
):
    mine, theirs = (say(client, "form", "Hello!", **form) for client in (http, own))
    assert re.fullmatch(expression, content(mine))
    assert content(mine) == content(theirs)
    assert mine["usage"] == theirs["usage"]
    assert mine["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"]


def test_a_required_tool_is_called_as_with_the_own_engine(http: httpx.Client, own: httpx.Client):
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    calls = []
    for client in (http, own):
        answer = say(client, "tool", "Hello!", tools=[tool], tool_choice="required", max_tokens=64)
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        calls.append([call["function"] for call in answer["choices"][0]["message"]["tool_calls"]])
    assert calls[0] == calls[1]
    assert json.loads(calls[0][0]["arguments"])["city"] in ("Lisbon", "Porto")


def test_a_bias_moves_an_answer_as_with_the_own_engine(http: httpx.Client, own: httpx.Client, server: Server):
    (token,) = server.engine.tokenizer.encode("a", add_special_tokens=False)
    answers = [say(client, "bias", "Hello!", logit_bias={str(token): 100}, max_tokens=4) for client in (http, own)]
    assert content(answers[0]) == content(answers[1]) == "a a a a"


def test_whoever_leaves_leaves_the_session_as_it_was(http: httpx.Client, server: Server):
    say(http, "left", "My birthday falls on July 20.")
    before = matrices(http, "left")
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 400, "stream": True}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        http.stream("POST", CHAT, json=body | {"memory": {"session": "left"}}) as stream,
    ):
        next(stream.iter_lines())
    until = time.monotonic() + PATIENCE_S
    while server.engine.load().decoding and time.monotonic() < until:
        time.sleep(0.05)
    assert server.engine.load().decoding == 0
    assert torch.equal(matrices(http, "left"), before)
    assert say(http, "left", "On what day was I born?")["memory"]["version"] == 3


def test_what_needs_the_model_itself_says_so(http: httpx.Client):
    answer = http.post("/v1/sessions/story/strengths", json={"version": 1})
    assert answer.status_code == 501
    assert "runs on vLLM" in answer.json()["error"]["message"]


def test_a_failure_of_vllm_fails_its_jobs_and_changes_nothing(
    http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
):
    say(http, "failing", "There is a tortoise at home with me.")
    before = matrices(http, "failing")
    engine: Any = server.engine
    step, broken = engine._engine.step, threading.Event()

    def fails_once() -> Any:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("out of luck")
        return step()

    monkeypatch.setattr(engine._engine, "step", fails_once)
    body = {"messages": [{"role": "user", "content": "Hello!"}], "memory": {"session": "failing"}}
    assert http.post(CHAT, json=body).status_code == 500
    assert torch.equal(matrices(http, "failing"), before)
    assert say(http, "failing", "What pet do I have?")["memory"]["version"] == 3


def test_the_command_killed_in_mid_answer_and_before_its_commit_keeps_what_it_acknowledged(tmp_path: Path):
    url, store = free_url(), f"sqlite:///{tmp_path}/sessions.db"
    told, asked = SUGGESTIONS[0]
    body = {"messages": [{"role": "user", "content": asked}], "temperature": 0, "stream": True}
    with command(tmp_path, url, store) as process, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert say(client, "ravi", told)["memory"]["version"] == 2
        before = matrices(client, "ravi")
        text = ""
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as another,
            contextlib.suppress(httpx.TransportError),
            client.stream("POST", CHAT, json=body | {"memory": {"session": "ravi"}}) as stream,
        ):
            another.execute("BEGIN IMMEDIATE")  # the commit waits for this writer
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    assert "memory" not in chunk
                    text += chunk["choices"][0]["delta"].get("content") or ""
                elif line.startswith(":") and "Lisbon" in text:  # nothing has come for some seconds
                    process.send_signal(signal.SIGKILL)
        assert "Lisbon" in text
    with command(tmp_path, url, store) as process, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert torch.equal(matrices(client, "ravi"), before)
        answer = say(client, "ravi", asked)
        assert "Lisbon" in content(answer)
        assert answer["memory"]["version"] == 3
        after = matrices(client, "ravi")
        longer = {**body, "max_tokens": 400, "memory": {"session": "ravi"}}
        with client.stream("POST", CHAT, json=longer) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGKILL)
            with contextlib.suppress(httpx.TransportError):
                list(lines)
    with contextlib.closing(SessionStore.open(store)) as sessions:
        head = sessions.load("default", "ravi")
        assert head.number == 3
        state, _ = unpack_state(head.state)
        torch.testing.assert_close(torch.stack([layer[0] for layer in state.states]), after)
