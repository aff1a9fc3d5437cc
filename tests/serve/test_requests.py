"""What requests may say, and how the server says what was wrong with them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serving import make_server, running

ASKED: list[Any] = [{"role": "user", "content": "Where do I live?"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(make_server(max_tokens=2)) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{url}/v1", timeout=60) as client:
        client.post("/sessions", json={"session": "ravi"}).raise_for_status()
        yield client


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def refusal(reply: httpx.Response) -> tuple[str, str | None]:
    """Why a request was refused, and the field that was wrong."""
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    return error["message"], error["param"]


WRONG_TYPES: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", {"messages": ASKED, field: value})
    for field, value in [
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("n", "2"),
        ("n", True),
        ("temperature", "0.5"),
        ("top_p", True),
        ("seed", 1.0),
        ("stream", 1),
        ("frequency_penalty", False),
    ]
]
WRONG_TYPES += [("/sessions/ravi/rollback", {"version": value}) for value in (True, "1", 1.0)]
WRONG_TYPES += [("/sessions", {"expires_in": "60"}), ("/sessions/ravi/freeze", {"frozen": 1})]


@pytest.mark.parametrize(("path", "body"), WRONG_TYPES, ids=lambda part: str(part)[-24:])
def test_a_value_of_another_type_is_refused(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    field = list(body)[-1]
    message, param = refusal(http.post(path, json=body))
    assert param == field
    assert message.startswith(f"{field}: Input should be")


def test_whole_numbers_do_for_fractions(http: httpx.Client) -> None:
    body = {"messages": ASKED, "temperature": 1, "top_p": 1, "frequency_penalty": 0}
    assert http.post("/chat/completions", json=body).status_code == 200


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": ASKED, **fields}).encode()


def said(content: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
REASONS: list[tuple[bytes, str | None, str]] = [
    (chat(stop=""), "stop", "String should have at least 1 character."),
    (chat(stop=[".", ""]), "stop.1", "String should have at least 1 character."),
    (chat(stop="\ud800"), "stop", "it holds half of a surrogate pair, which is not a character."),
    (chat(stop={"function": 1}), "stop", "Input should be a text or a list of texts."),
    (said(5), "messages.0.content", "Input should be a text or a list of text parts."),
    (said({"text": "x"}), "messages.0.content", "Input should be a text or a list of text parts."),
    (
        said([IMAGE]),
        "messages.0.content.0",
        "the model reads text only, so a part of the type 'image_url' cannot be sent.",
    ),
    (said([{"type": "text", "text": 5}]), "messages.0.content.0.text", "Input should be a valid string."),
    (said("\ud800"), "messages.0.content", "it holds half of a surrogate pair, which is not a character."),
    (chat(top_logprobs=2), None, "top_logprobs needs logprobs: true."),
    (chat(colour="red"), "colour", "there is no such field here; /openapi.json lists those there are."),
    (chat(memory={"roles": []}), "memory.roles", "List should have at least 1 item"),
    (b'{"messages": ', None, "Expecting value at character 13."),
    (b'{"messages": "\xff"}', None, "its text is not UTF-8."),
    (b'{"messages": ' + b"[" * 20_000, None, "it is nested too deeply."),
    (b'{"seed": ' + b"9" * 5000 + b"}", None, "a number in it has too many digits."),
    (b"[1]", None, "it must be an object, sent with Content-Type: application/json."),
    (b"", None, "it must be an object, sent with Content-Type: application/json."),
]


@pytest.mark.parametrize(("body", "field", "reason"), REASONS, ids=lambda part: repr(part)[:40])
def test_the_reason_is_in_words_and_names_the_field(
    http: httpx.Client, body: bytes, field: str | None, reason: str
) -> None:
    reply = http.post("/chat/completions", content=body, headers={"Content-Type": "application/json"})
    message, param = refusal(reply)
    assert param == field
    assert reason in message
    assert message.startswith(f"{field}: " if field else ("The body", "top_logprobs"))


@pytest.mark.parametrize("depth", [30, 400, 800, 900, 950, 980, 20_000])
def test_arguments_of_a_call_may_be_deep_or_are_refused(http: httpx.Client, depth: int) -> None:
    arguments = '{"a": ' * depth + "1" + "}" * depth
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    messages = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}, *ASKED]
    tool = {"type": "function", "function": {"name": "look"}}
    reply = http.post("/chat/completions", json={"messages": messages, "tools": [tool], "max_tokens": 1})
    assert reply.status_code == (200 if depth == 30 else 400), reply.text


HALF = {"type": "object", "x": "\ud800"}  # of a surrogate pair
TOOLS: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"tools": [{"type": "function", "function": {"name": "look", "parameters": HALF}}]}),
    ("chat/completions", {"tools": [{"type": "function", "function": {"name": "look", "description": "\ud800"}}]}),
    ("responses", {"input": "Hi.", "tools": [{"type": "function", "name": "look", "parameters": HALF}]}),
    ("messages", {"tools": [{"name": "look", "input_schema": HALF}], "max_tokens": 1}),
    ("messages/count_tokens", {"tools": [{"name": "look", "input_schema": HALF}]}),
]


@pytest.mark.parametrize(("path", "body"), TOOLS)
def test_tools_with_text_that_is_none_are_refused(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """A fuzzed schema had the tokenizer fail in counting."""
    data = json.dumps(({} if "input" in body else {"messages": ASKED}) | body)
    reply = http.post(f"/{path}", content=data, headers={"Content-Type": "application/json"})
    assert "half of a surrogate pair" in refusal(reply)[0]


@pytest.mark.parametrize(
    ("prompt", "field"),
    [(["a", 5], "prompt.1"), ([5, "a"], "prompt.1"), ([[5], [-1]], "prompt.1.0"), ([], "prompt"), ([True], "prompt")],
)
def test_a_prompt_is_judged_as_what_it_looks_like(http: httpx.Client, prompt: Any, field: str) -> None:
    assert refusal(http.post("/completions", json={"prompt": prompt}))[1] == field


def test_null_is_the_default(client: openai.OpenAI) -> None:
    nulls: Any = dict.fromkeys(["temperature", "top_p", "n", "stream", "max_tokens", "stop", "seed", "logprobs"])
    asked: Any = {"model": "demo", "extra_body": {"memory": {"session": None, "mode": None}}, **nulls}
    assert client.chat.completions.create(messages=ASKED, **asked).choices[0].message.content
    assert client.completions.create(prompt="I live", **asked).choices[0].text


def test_what_openais_clients_send_along_is_taken_and_changes_nothing(client: openai.OpenAI) -> None:
    along: Any = {"user": "ravi", "metadata": {"team": "a"}, "store": True, "service_tier": "auto"}
    along |= {"safety_identifier": "ravi", "prompt_cache_key": "a"}
    plain, told = (
        client.chat.completions.create(model="demo", messages=ASKED, temperature=0, **more) for more in ({}, along)
    )
    assert told.choices == plain.choices
    assert told.memory == plain.memory  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError, match="metadata"):
        client.chat.completions.create(model="demo", messages=ASKED, extra_body={"metadata": "a"})


def test_an_answer_can_be_sent_back_as_the_client_dumps_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=ASKED).choices[0].message
    dumped: Any = answer.model_dump() | {"tool_calls": [], "annotations": []}
    for message in (answer, answer.model_dump(), dumped):
        again: Any = [*ASKED, message, *ASKED]
        assert client.chat.completions.create(model="demo", messages=again).choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="tool_calls"):
        client.chat.completions.create(model="demo", messages=[*ASKED, dumped | {"tool_calls": [{"id": "x"}]}, *ASKED])


def test_of_both_bounds_the_smaller_counts(client: openai.OpenAI) -> None:
    for old, new in ((3, 1), (1, 3)):
        bounds: Any = {"max_tokens": old, "max_completion_tokens": new, "extra_body": {"ignore_eos": True}}
        usage = client.chat.completions.create(model="demo", messages=ASKED, **bounds).usage
        assert usage is not None
        assert usage.completion_tokens == 1


NOTHING: list[dict[str, Any]] = [
    {"text": ""},
    {"text": " \n"},
    {"text": "I live in Rome.", "roles": []},
    {"text": "I live in Rome.", "roles": ["assistant"]},
    {"messages": [{"role": "system", "content": "Be brief."}]},
    {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "Yes."}], "roles": ["user"]},
]


@pytest.mark.parametrize("body", NOTHING, ids=str)
def test_what_would_write_nothing_makes_no_version(http: httpx.Client, body: dict[str, Any]) -> None:
    refusal(http.post("/sessions/ravi/observe", json=body))
    assert http.get("/sessions/ravi").json()["version"] == 1


def test_must_exist_needs_a_session_that_is_used(http: httpx.Client) -> None:
    off = {"must_exist": True, "session": "ravi", "mode": "off"}
    for memory in ({"must_exist": True}, {"must_exist": True, "return_state": True}, off):
        body = {"messages": ASKED, "memory": memory}
        assert refusal(http.post("/chat/completions", json=body))[1] == "memory.must_exist"
    body = {"messages": ASKED, "memory": {"must_exist": True, "mode": "read_only"}}
    named = http.post("/chat/completions", json=body, headers={"X-Memory-Session": "ravi"})
    assert named.status_code == 200
