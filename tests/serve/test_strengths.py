import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice, pairwise
from typing import Any

import httpx
import pytest
import torch
from serving import make_server, running

from deltamem.attach import attached
from deltamem.attribution import Check, read_strengths, write_strengths
from deltamem.chat import encode_chat
from deltamem.chat.input import TextInput
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.observe import observe
from deltamem.serve.lookback import PastTurn, SeenMessage, weigh
from deltamem.serve.prompts import Prompts
from deltamem.serve.server import Server
from deltamem.step import Step

TOLD = [{"role": "user", "content": "I settled in Lisbon some years ago."}, {"role": "assistant", "content": "Noted."}]


@pytest.fixture(scope="module", params=["multi", "segment"])
def model(request: pytest.FixtureRequest) -> Any:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, request.param)
    return model, tokenizer, Prompts(TextInput(model, tokenizer), 512)


def test_a_tokens_write_is_the_step_between_the_memories_before_and_after_it(model: Any) -> None:
    backbone, _, prompts = model
    ids, segments, _ = prompts.written([{"role": "user", "content": "There is a tortoise at home."}], ["user"])
    earlier = observe(backbone, ids, segment_ids=segments)
    for roles in (["user", "assistant"], ["assistant"]):
        ids, segments, write = prompts.written(TOLD, roles)
        strengths, after = write_strengths(backbone, ids, earlier, segment_ids=segments, write=write)
        states = [earlier]
        for length in range(1, ids.shape[1] + 1):
            part = slice(0, length)
            states.append(
                observe(
                    backbone,
                    ids[:, part],
                    earlier,
                    segment_ids=segments[:, part],
                    write=write[:, part],
                    close=length == ids.shape[1],
                )
            )
        direct = torch.stack([b.diff(a).norm() for a, b in pairwise(states)])
        torch.testing.assert_close(strengths, direct, atol=2e-5, rtol=1e-3)
        assert float(after.diff(states[-1]).norm()) < 1e-4
        if not attached(backbone).config.writes_segments:
            assert not strengths[~write[0]].any()
            assert strengths[write[0]].all()


def test_long_texts_are_weighed_in_the_chunks_they_were_written_in(model: Any) -> None:
    backbone, _, prompts = model
    long = [{"role": "user", "content": " ".join(f"The bus was late on day {n}." for n in range(80))}]
    ids, segments, write = prompts.written(long, ["user"])
    assert ids.shape[1] > 600
    strengths, after = write_strengths(backbone, ids, attached(backbone).new_state(), segment_ids=segments, write=write)
    assert len(strengths) == ids.shape[1]
    assert float(after.diff(observe(backbone, ids, segment_ids=segments)).norm()) < 1e-3


@torch.no_grad()
def test_a_tokens_read_is_what_its_address_finds_in_the_states(model: Any) -> None:
    backbone, tokenizer, prompts = model
    ids, segments, _ = prompts.written(TOLD, ["user"])
    state = observe(backbone, ids, segment_ids=segments)
    asked = encode_chat(tokenizer, [{"role": "user", "content": "Where do I live?"}], add_generation_prompt=True)
    seen: list[torch.Tensor] = []
    memories = attached(backbone).memories()
    hooks = [m.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for m in memories]
    attached(backbone).base(input_ids=asked.input_ids, memory=Step(state, write=False))
    for hook in hooks:
        hook.remove()
    direct = torch.zeros(asked.input_ids.shape[1])
    for memory, inputs, matrices in zip(memories, seen, state.states, strict=True):
        for token, vector in enumerate(inputs[0]):
            address = torch.tanh(memory.named_parts()["q_proj"] @ vector).view(-1, 8)
            address = address / address.norm(dim=-1, keepdim=True)
            direct[token] += sum(float((matrices[0, n] @ address[n]).norm() ** 2) for n in range(len(address)))
    torch.testing.assert_close(read_strengths(backbone, asked.input_ids[0].tolist(), state), direct.sqrt())
    empty = read_strengths(backbone, asked.input_ids[0].tolist(), attached(backbone).new_state())
    assert not empty.any()


def test_content_is_told_apart_from_what_the_template_adds() -> None:
    _, tokenizer = load_backbone()
    for content in (" I live in Lisbon. ", "user", "Ωmega — 日本, 🎻!", "<|im_end|>"):
        message = {"role": "user", "content": content}
        chat = encode_chat(tokenizer, [message])
        shown = chat.content(0)
        assert "".join(text for _, text in shown) == content.strip()
        assert len(shown) < chat.input_ids.shape[1]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with running(make_server()) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def say(http: httpx.Client, session: str, messages: list[dict[str, str]], **options: Any) -> Any:
    body = {"messages": messages, "temperature": 0, "memory": {"session": session, **options}}
    answer = http.post("/v1/chat/completions", json=body).json()
    return answer["memory"], answer["choices"][0]["message"]


def test_the_server_weighs_a_turn_from_its_log_or_from_what_it_is_sent(http: httpx.Client) -> None:
    told, answer = say(http, "ravi", TOLD[:1])
    kept = http.post("/v1/sessions/ravi/strengths", json={"version": told["version"]}).json()
    sent = {"version": told["version"], "messages": [*TOLD[:1], answer]}
    assert http.post("/v1/sessions/ravi/strengths", json=sent).json() == kept
    assert [message["role"] for message in kept["data"]] == ["user", "assistant"]
    assert "".join(token["text"] for token in kept["data"][0]["tokens"]) == TOLD[0]["content"]
    tokens = [token for message in kept["data"] for token in message["tokens"]]
    assert all(token["write"] > 0 and token["read"] == 0 for token in tokens)  # there was nothing to be read yet

    context = [*TOLD[:1], answer, {"role": "user", "content": "Where do I live?"}]
    asked, answer = say(http, "ravi", context)
    sent = {"version": asked["version"], "messages": [*context, answer]}
    seen = http.post("/v1/sessions/ravi/strengths", json=sent).json()["data"]
    alone = http.post("/v1/sessions/ravi/strengths", json={"version": asked["version"]}).json()["data"]
    assert all(token["read"] > 0 for message in seen for token in message["tokens"])
    for one, other in zip(
        seen, alone, strict=True
    ):  # what is visible changes what is read, and nothing of what is written
        assert [t["write"] for t in one["tokens"]] == [t["write"] for t in other["tokens"]]
    assert seen != alone


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"version": 1}, "no text was written"),
        ({"version": 2, "messages": TOLD[:1]}, "not an answer"),
        ({"version": 2, "messages": [{"role": "user", "content": "I settled in Porto."}, TOLD[1]]}, "another memory"),
        ({"version": 2, "messages": []}, "messages"),
        ({"version": 2, "roles": ["user"]}, "another memory"),
    ],
)
def test_what_is_not_the_turn_is_refused(http: httpx.Client, body: dict[str, Any], says: str) -> None:
    if http.get("/v1/sessions/mina").status_code == 404:
        say(http, "mina", TOLD[:1])
    answer = http.post("/v1/sessions/mina/strengths", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_a_server_that_keeps_no_text_asks_for_it() -> None:
    with running(make_server(keep_messages=False)) as url, httpx.Client(base_url=url, timeout=60) as http:
        told, answer = say(http, "ravi", TOLD[:1])
        bare = http.post("/v1/sessions/ravi/strengths", json={"version": told["version"]})
        assert bare.status_code == 400
        assert "send its messages along" in bare.json()["error"]["message"]
        sent = {"version": told["version"], "messages": [*TOLD[:1], answer]}
        assert http.post("/v1/sessions/ravi/strengths", json=sent).status_code == 200
        assert http.post("/v1/sessions/nobody/strengths", json=sent).status_code == 404


def test_weighing_ends_with_the_deadline_or_the_client_and_its_line_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server()
    released = threading.Event()

    def held(server: Server, turn: PastTurn, check: Check) -> list[SeenMessage]:
        """Weighing that is stuck at its first step until it is let go, or its check ends it."""

        def stuck() -> None:
            check()
            while not released.wait(0.01):
                check()

        return weigh(server, turn, stuck)

    monkeypatch.setattr("deltamem.serve.routes.lookback.weigh", held)
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        path = "/v1/sessions/long/strengths"
        http.post("/v1/sessions/long/observe", json={"text": "The bus was late on a day in May."})

        def ask(timeout: str = "60") -> int:
            return http.post(path, json={"version": 2}, headers={"X-Request-Timeout": timeout}).status_code

        assert ask("0.1") == 504
        with pytest.raises(httpx.ReadTimeout):
            http.post(path, json={"version": 2}, timeout=0.1)
        while len(server.looking_back):
            time.sleep(0.01)
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask)]
            while not len(server.looking_back):
                time.sleep(0.01)
            assert ask("0.1") == 504  # in line
            asked += [pool.submit(ask) for _ in range(11)]
            refused = [one.result() for one in islice(as_completed(asked), 4)]
            released.set()
        assert refused == [429] * 4
        assert sorted(one.result() for one in asked) == [200] * 8 + [429] * 4
        http.post("/v1/sessions/longer/observe", json={"text": "The bus was late on a day in May. " * 120})
        refused = http.post("/v1/sessions/longer/strengths", json={"version": 2})
        assert (refused.status_code, "up to 1024" in refused.json()["error"]["message"]) == (400, True)
