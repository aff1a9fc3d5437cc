"""Chat templates as real models have them: a system prompt of their own, roles that must alternate."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import make_server, running

from deltamem.serve.settings import EngineLimits

DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant named Teal.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role + '\n' + m.content | trim }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HI = {"role": "user", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture(scope="module")
def alternating() -> Iterator[httpx.Client]:
    server = make_server(template=ALTERNATING, limits=EngineLimits(context=96))
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def say(http: httpx.Client, messages: list[dict[str, Any]], session: str, **options: Any) -> httpx.Response:
    body = {"messages": messages, "temperature": 0, "max_tokens": 8, "memory": {"session": session}, **options}
    return http.post("/v1/chat/completions", json=body)


def told(count: int) -> list[dict[str, str]]:
    turns = [
        ({"role": "user", "content": f"I live in Lisbon, {n}."}, {"role": "assistant", "content": "Noted."})
        for n in range(count)
    ]
    return [message for turn in turns for message in turn]


def test_a_templates_own_system_prompt_is_never_written() -> None:
    counts = []
    for template in (None, DEFAULT_SYSTEM):
        with running(make_server(template=template)) as url, httpx.Client(base_url=url, timeout=60) as http:
            answers = [say(http, [HI], "a"), say(http, [SYSTEM, HI], "b")]
            for session, answer in zip("ab", answers, strict=True):
                message = answer.json()["choices"][0]["message"]
                weighed = http.post(
                    f"/v1/sessions/{session}/strengths",
                    json={"version": 2, "messages": [HI, {"role": "assistant", "content": message["content"]}]},
                )
                shown = ["".join(token["text"] for token in one["tokens"]) for one in weighed.json()["data"]]
                assert shown == [HI["content"], message["content"].strip()]
            observed = http.post("/v1/sessions/c/observe", json={"text": "Hello!"}).json()
            counts.append(
                [
                    observed["written_tokens"],
                    *(a.json()["memory"]["written_tokens"] - a.json()["usage"]["completion_tokens"] for a in answers),
                ]
            )
    assert counts[0] == counts[1]


@pytest.mark.parametrize("exchanges", [0, 3, 6, 20])
def test_a_conversation_too_long_is_cut_before_a_users_message(alternating: httpx.Client, exchanges: int) -> None:
    answer = say(alternating, [*told(exchanges), HI], f"long-{exchanges}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["memory"]["dropped_messages"] % 2 == 0
    assert answer.json()["usage"]["prompt_tokens"] < 96


def test_a_cut_leaves_system_messages_and_what_does_not_fit_is_told() -> None:
    with running(make_server(limits=EngineLimits(context=64))) as url, httpx.Client(base_url=url, timeout=60) as http:
        answer = say(http, [SYSTEM, *told(9), HI], "s")
        assert answer.json()["memory"]["dropped_messages"] % 2 == 0
        long = {"role": "user", "content": "I live in Lisbon. " * 40}
        refused = say(http, [*told(3), long], "s")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [False, True])
def test_messages_that_end_otherwise_than_with_a_users_are_written_too(alternating: httpx.Client, stream: bool) -> None:
    session = f"ends-{stream}"
    answer = say(alternating, [HI, {"role": "assistant", "content": "Hello!"}], session, stream=stream)
    assert answer.status_code == 200
    assert "error" not in answer.text
    assert alternating.get(f"/v1/sessions/{session}").json()["version"] == 2


def test_what_the_template_refuses_is_refused_before_an_answer(alternating: httpx.Client) -> None:
    refused = say(alternating, [HI, HI], "refused", stream=True)
    assert refused.status_code == 400
    assert "roles must alternate" in refused.json()["error"]["message"]
    assert alternating.get("/v1/sessions/refused").status_code == 404


def test_an_answer_is_one_text_where_it_is_written_and_where_it_is_compared(alternating: httpx.Client) -> None:
    first = say(alternating, [HI], "whole").json()["choices"][0]["message"]["content"]
    cut = first.index(" ") + 1
    answer = say(alternating, [HI], "cut", stop=[first[cut : cut + 3]]).json()
    text = answer["choices"][0]["message"]["content"]
    assert text.endswith(" ")
    sent = {"version": answer["memory"]["version"], "messages": [HI, {"role": "assistant", "content": text}]}
    assert alternating.post("/v1/sessions/cut/strengths", json=sent).status_code == 200


def test_an_assistants_content_may_be_null_and_no_others(alternating: httpx.Client) -> None:
    empty = [HI, {"role": "assistant", "content": None}, HI]
    assert say(alternating, empty, "null").status_code == 200
    for message in ({"role": "user", "content": None}, {"role": "user"}):
        refused = say(alternating, [message], "null")
        assert refused.status_code == 400
        assert "needs a content" in refused.json()["error"]["message"]
