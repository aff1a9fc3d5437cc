"""Which tokens of past turns an answer read, asked of a running server."""

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import make_server, running

from deltamem.attach import attached
from deltamem.attribution import read_strengths, write_shares
from deltamem.chat import encode_chat
from deltamem.chat.input import TextInput
from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.demo.world import Fact, sample_dialogue
from deltamem.observe import observe
from deltamem.serve.lookback import answer_probe
from deltamem.serve.prompts import Prompts

LISBON = "I settled in Lisbon some years ago."
CELLO = "My friend Ravi practises the cello daily."
WHERE = "Which city do I live in?"

Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with running(make_server()) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def say(http: httpx.Client, session: str, text: str) -> tuple[int, Messages]:
    """One turn with no other visible: its version, and its messages."""
    asked = [{"role": "user", "content": text}]
    body = {"messages": asked, "temperature": 0, "memory": {"session": session}}
    answer = http.post("/v1/chat/completions", json=body).json()
    said = {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
    return answer["memory"]["version"], [*asked, said]


@pytest.fixture(scope="module")
def told(http: httpx.Client) -> list[tuple[int, Messages]]:
    return [say(http, "ravi", text) for text in (LISBON, CELLO, WHERE)]


def trace(http: httpx.Client, *past: int, version: int = 4, **more: Any) -> Any:
    body = {"version": version, "past": [{"version": number} for number in past], **more}
    return http.post("/v1/sessions/ravi/sources", json=body)


def test_the_told_value_lights_up(http: httpx.Client, told: list[tuple[int, Messages]]) -> None:
    assert [version for version, _ in told] == [2, 3, 4]
    assert told[-1][1][-1]["content"] == "Lisbon."
    found = trace(http, 2, 3).json()
    assert [(turn["session"], turn["version"]) for turn in found["data"]] == [("ravi", 2), ("ravi", 3)]
    for turn, (_, messages) in zip(found["data"], told, strict=False):
        assert [m["role"] for m in turn["messages"]] == ["user", "assistant"]
        assert ["".join(t["text"] for t in m["tokens"]) for m in turn["messages"]] == [m["content"] for m in messages]
    tokens = [token for turn in found["data"] for message in turn["messages"] for token in message["tokens"]]
    assert max(tokens, key=lambda token: token["read"])["text"].strip() == "Lisbon"


def test_the_shares_add_up_to_what_was_read(http: httpx.Client, told: list[tuple[int, Messages]]) -> None:
    whole, part = trace(http, 2, 3).json(), trace(http, 3).json()
    for found in (whole, part):
        shares = sum(message["read"] for turn in found["data"] for message in turn["messages"])
        assert found["before"] + shares == pytest.approx(found["read"], rel=1e-3)
    assert whole["before"] == 0  # there was nothing before the first turn
    assert part["read"] == whole["read"]
    assert part["data"] == whole["data"][1:]
    first = sum(message["read"] for message in whole["data"][0]["messages"])
    assert part["before"] == pytest.approx(first, rel=1e-3)


def test_what_was_read_is_what_the_strengths_say(http: httpx.Client, told: list[tuple[int, Messages]]) -> None:
    """The tokens of "Lisbon." were chosen at the prompt's last token, and at all of the answer's but its last."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    state = attached(model).new_state()
    prompts = Prompts(TextInput(model, tokenizer), 512)
    for _, messages in told[:2]:
        ids, segments, write = prompts.written(messages, ["user", "assistant"])
        state = observe(model, ids, state, segment_ids=segments, write=write)
    prompt = encode_chat(tokenizer, told[2][1][:1], add_generation_prompt=True).input_ids[0].tolist()
    answer = tokenizer("Lisbon.", add_special_tokens=False)["input_ids"]
    reads = read_strengths(model, prompt + answer, state)
    chosen_at = reads[len(prompt) - 1 : len(prompt) + len(answer) - 1]
    assert trace(http, 3).json()["read"] == pytest.approx(float(chosen_at.sum()), rel=1e-3)


def test_texts_may_be_sent_along(http: httpx.Client, told: list[tuple[int, Messages]]) -> None:
    (_, lisbon), (_, cello), (_, asked) = told
    past = [{"version": 2, "messages": lisbon}, {"version": 3, "messages": [*lisbon, *cello]}]
    sent = {"version": 4, "messages": asked, "past": past}
    assert http.post("/v1/sessions/ravi/sources", json=sent).json() == trace(http, 2, 3).json()
    visible = {**sent, "messages": [*cello, *asked]}
    other = http.post("/v1/sessions/ravi/sources", json=visible).json()
    assert other["read"] != trace(http, 2, 3).json()["read"]  # other text was visible, so other tokens read


@pytest.mark.parametrize(
    ("past", "more", "says"),
    [
        ([2], {}, "did not begin with the memory that version 2 left"),
        ([3, 2], {}, "did not begin with the memory"),
        ([1], {"version": 2}, "no text was written"),
        ([3], {"messages": [{"role": "user", "content": WHERE}, {"role": "assistant", "content": "Rome."}]}, "another"),
        ([], {}, "past"),
    ],
)
def test_what_is_not_the_past_is_refused(
    http: httpx.Client, told: list[tuple[int, Messages]], past: list[int], more: dict[str, Any], says: str
) -> None:
    answer = trace(http, *past, **more)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_another_text_than_the_turns_is_refused(http: httpx.Client, told: list[tuple[int, Messages]]) -> None:
    wrong = [{"role": "user", "content": "I settled in Porto some years ago."}, told[0][1][1]]
    past = [{"version": 2, "messages": wrong}, {"version": 3}]
    answer = http.post("/v1/sessions/ravi/sources", json={"version": 4, "past": past})
    assert answer.status_code == 400
    assert "version 2" in answer.json()["error"]["message"]


def test_a_fork_names_the_session_that_its_turns_come_from(
    http: httpx.Client, told: list[tuple[int, Messages]]
) -> None:
    http.post("/v1/sessions/ravi/fork", json={"session": "twin", "version": 3})
    version, messages = say(http, "twin", WHERE)
    past = [{"session": "ravi", "version": 2}, {"session": "ravi", "version": 3}]
    found = http.post("/v1/sessions/twin/sources", json={"version": version, "past": past}).json()
    assert messages == told[2][1]
    assert found["data"] == trace(http, 2, 3).json()["data"]


def test_a_text_that_was_observed_has_no_answer(http: httpx.Client) -> None:
    for text in (LISBON, CELLO):
        http.post("/v1/sessions/mina/observe", json={"text": text})
    body = {"version": 3, "past": [{"version": 2}]}
    answer = http.post("/v1/sessions/mina/sources", json=body)
    assert answer.status_code == 400
    assert "holds no answer" in answer.json()["error"]["message"]
    version, _ = say(http, "mina", WHERE)
    found = http.post("/v1/sessions/mina/sources", json={"version": version, "past": [{"version": 2}, {"version": 3}]})
    tokens = [token for turn in found.json()["data"] for message in turn["messages"] for token in message["tokens"]]
    assert max(tokens, key=lambda token: token["read"])["text"].strip() == "Lisbon"


def test_the_latest_turns_that_fit_are_taken(http: httpx.Client) -> None:
    long = " ".join(f"The bus was late on day {n}." for n in range(500))
    http.post("/v1/sessions/mara/observe", json={"text": long})
    http.post("/v1/sessions/mara/observe", json={"text": LISBON})
    version, _ = say(http, "mara", WHERE)
    body = {"version": version, "past": [{"version": 2}, {"version": 3}]}
    found = http.post("/v1/sessions/mara/sources", json=body).json()
    assert [turn["version"] for turn in found["data"]] == [3]
    shares = sum(message["read"] for message in found["data"][0]["messages"])
    assert found["before"] > 0
    assert found["before"] + shares == pytest.approx(found["read"], rel=1e-3)


def traced(which: Any, facts: int, dialogues: int) -> Iterator[tuple[Fact, list[tuple[float, str, str, str]]]]:
    """Of held-out dialogues a fact that was asked for, and of each token its share, text, message and turn."""
    model, tokenizer = load_backbone()
    load_demo_adapter(model, which)
    prompts, rng = Prompts(TextInput(model, tokenizer), 512), random.Random(7)
    for _ in range(dialogues):
        dialogue = sample_dialogue(rng, facts=facts, small_talk=1, split="test")
        messages = [message.to_dict() for message in dialogue.messages]
        turns = [messages[i : i + 2] for i in range(0, len(messages), 2)]
        states, written = [attached(model).new_state()], [prompts.written(t, ["user", "assistant"]) for t in turns]
        for ids, segments, write in written:
            states.append(observe(model, ids, states[-1], segment_ids=segments, write=write))
        asked = dialogue.questions[0]
        exchange = [{"role": "user", "content": asked.ask}, {"role": "assistant", "content": asked.answer}]
        probe = answer_probe(model, tokenizer, exchange, states[-1])
        found: list[tuple[float, str, str, str]] = []
        for turn, (ids, segments, write), before in reversed(list(zip(turns, written, states, strict=False))):
            shares = write_shares(model, ids, before, probe, segment_ids=segments, write=write)
            probe = shares.probe
            numbers = encode_chat(tokenizer, turn).message[0].tolist()
            texts = tokenizer.batch_decode(ids[0][:, None])
            found += [
                (float(share), text.strip(), turn[number]["content"], turn[0]["content"])
                for share, text, number in zip(shares.tokens, texts, numbers, strict=True)
            ]
        assert asked.fact is not None
        yield asked.fact, found


@pytest.mark.parametrize(("which", "facts", "least"), [("multi", 1, 8), ("multi", 4, 8), ("token", 2, 8)])
def test_of_held_out_facts_the_value_has_the_largest_share(which: str, facts: int, least: int) -> None:
    hits = []
    for fact, found in traced(which, facts, 10):
        _, text, message, _ = max(found)
        hits.append(bool(text) and text in fact.value and message == fact.tell)
    print(f"{which}, {facts} facts: {sum(hits)} of {len(hits)}")
    assert sum(hits) >= least


def test_of_segments_the_turn_that_told_the_fact_has_the_largest_share() -> None:
    hits = []
    for fact, found in traced("segment", 2, 20):
        turns = {turn: sum(share for share, *_, of in found if of == turn) for *_, turn in found}
        hits.append(max(turns, key=turns.__getitem__) == fact.tell)
    print(f"segment: {sum(hits)} of {len(hits)}")
    assert sum(hits) >= 12
