"""Anthropic's Messages, asked for by its own client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from serving import make_server, running

from deltamem.store import ApiKeys

anthropic = pytest.importorskip("anthropic")

LISBON, CITY = "I settled in Lisbon some years ago.", "Which city do I live in?"
WEATHER: Any = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Lisbon", "Porto"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """The embedded model, which remembers."""
    with running(make_server()) as url:
        yield anthropic.Anthropic(base_url=url, auth_token="none", max_retries=0)


def asked(said: Any, session: str | None = None, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    headers = {"X-Memory-Session": session} if session else {}
    greedy = {"temperature": 0}  # which this client has no argument for
    return {
        "model": "demo",
        "messages": messages,
        "max_tokens": 40,
        "extra_headers": headers,
        "extra_body": greedy,
        **options,
    }


def ask(client: Any, said: Any, session: str | None = None, **options: Any) -> Any:
    return client.messages.create(**asked(said, session, **options))


def test_a_session_is_remembered(client: Any) -> None:
    ask(client, LISBON, "ravi")
    answer = ask(client, [{"role": "user", "content": [{"type": "text", "text": CITY}]}], "ravi")
    assert [block.text for block in answer.content] == ["Lisbon."]
    assert (answer.stop_reason, answer.role) == ("end_turn", "assistant")
    assert answer.usage.input_tokens > answer.usage.output_tokens > 0
    assert ask(client, CITY).content[0].text != "Lisbon."
    assert ask(client, CITY, "ravi", max_tokens=1).stop_reason == "max_tokens"


def test_a_stream_has_anthropics_events(client: Any) -> None:
    ask(client, LISBON, "stream")
    with client.messages.stream(**asked(CITY, "stream")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert (text, final.content[0].text, final.stop_reason) == ("Lisbon.", "Lisbon.", "end_turn")
    assert final.usage.output_tokens > 0


def test_tools_are_called_and_answered(client: Any) -> None:
    options: Any = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}, "max_tokens": 100}
    said = [{"role": "user", "content": "How is it in Porto?"}]
    called = ask(client, said, **options)
    (call,) = called.content
    assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Porto"})
    assert called.stop_reason == "tool_use"
    with client.messages.stream(**asked(said, **options)) as stream:
        (streamed,) = stream.get_final_message().content
    assert (streamed.name, streamed.input) == ("weather", {"city": "Porto"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "It rains."}]}
    whole = [*said, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    answer = ask(client, whole, system="Help.")
    assert [block.type for block in answer.content] == ["text"]


def test_an_answer_has_its_form(client: Any) -> None:
    form = {"format": {"type": "json_schema", "schema": WEATHER["input_schema"]}}
    answer = ask(client, CITY, output_config=form)
    assert json.loads(answer.content[0].text)["city"] in ("Lisbon", "Porto")


def test_a_prompts_tokens_are_counted(client: Any) -> None:
    for options in ({}, {"system": "Help."}, {"tools": [WEATHER]}):
        counted = client.messages.count_tokens(
            model="demo", messages=[{"role": "user", "content": CITY}], **options
        ).input_tokens
        assert counted == ask(client, CITY, **options).usage.input_tokens
    long = [{"role": "user", "content": "word " * 5000}]
    assert client.messages.count_tokens(model="demo", messages=long).input_tokens > 5000
    with pytest.raises(anthropic.BadRequestError, match="positions"):
        ask(client, long)


def test_a_key_as_this_client_sends_it() -> None:
    server = make_server(require_keys=True)
    secret = ApiKeys(server.store).create("acme").secret
    with running(server) as url:
        keyed = anthropic.Anthropic(base_url=url, api_key=secret, max_retries=0)
        assert ask(keyed, CITY).role == "assistant"
        with pytest.raises(anthropic.AuthenticationError, match="unknown"):
            ask(anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0), CITY)


def test_what_cannot_be_done_is_said(client: Any) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    for said, options, says in (
        ([{"role": "user", "content": [image]}], {}, "text only"),
        ("x", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ("x", {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "no tool"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=says) as refused:
            ask(client, said, **options)
        assert refused.value.type == "invalid_request_error"
        assert refused.value.request_id


def test_a_stream_that_fails_raises_in_the_client() -> None:
    server = make_server()
    server.engine._ends = frozenset()
    with running(server) as url:
        client = anthropic.Anthropic(base_url=url, auth_token="none", max_retries=0)
        client.post("/v1/sessions", cast_to=object, body={"session": "frozen"})
        events = iter(client.messages.create(**asked(CITY, "frozen", max_tokens=300, stream=True)))
        assert next(events).type == "message_start"
        client.post("/v1/sessions/frozen/freeze", cast_to=object)
        with pytest.raises(anthropic.APIStatusError, match="frozen"):
            list(events)
