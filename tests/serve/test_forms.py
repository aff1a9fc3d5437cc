"""Answers of a given form, and tools, asked for by OpenAI's own client of a running server."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving import make_server, running

from talkers import talker

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Lisbon", "Porto"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": CITY}}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "description": "Tells the time."}}
ASK: Any = [{"role": "user", "content": "How is the weather?"}]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with running(make_server(model=talker(positions=2048), max_tokens=64)) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def said(client: openai.OpenAI, **options: Any) -> str:
    reply = client.chat.completions.create(model="any", messages=ASK, **options)
    return reply.choices[0].message.content or ""


def test_json_follows_its_schema_in_one_piece_and_streamed(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": CITY, "strict": True}}
    for seed in range(3):
        found = json.loads(said(client, response_format=form, seed=seed))
        assert found["city"] in ("Lisbon", "Porto")
        assert 1 <= found["days"] <= 9
    with client.chat.completions.create(
        model="any", messages=ASK, response_format=form, temperature=0, stream=True
    ) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert json.loads("".join(pieces)) == json.loads(said(client, response_format=form, temperature=0))
    assert len(pieces) > 3


@pytest.mark.parametrize(
    ("options", "expression"),
    [
        ({"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}}, "[0-9]{3}-[a-f]{2}"),
        ({"guided_regex": "(yes|no)!"}, "(yes|no)!"),
        ({"structured_outputs": {"choice": ["red", "very blue"]}}, "red|very blue"),
        ({"guided_choice": ["red"]}, "red"),
        ({"structured_outputs": {"grammar": 'start: "a" "b"+ "c"\n'}, "seed": 1, "max_tokens": 200}, "ab+c?"),
        ({"guided_json": {"const": {"a": 1}}}, re.escape('{"a": 1}')),
    ],
)
def test_other_forms_as_in_vllm(client: openai.OpenAI, options: dict[str, Any], expression: str) -> None:
    assert re.fullmatch(expression, said(client, extra_body=options))


def test_an_object_of_any_kind_begins_as_one(client: openai.OpenAI) -> None:
    assert said(client, response_format={"type": "json_object"}, max_tokens=12).startswith("{")


def test_a_server_without_the_library_says_so_and_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setattr("deltamem.extensions.how_to_install", lambda extra: f"/home/me[{extra}]")
    with running(make_server(model=talker(positions=2048))) as url:
        lacking = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="which this server has not installed") as refused:
            said(lacking, response_format={"type": "json_object"})
    assert refused.value.status_code == 501
    assert "/home" not in str(refused.value)


def test_a_required_tool_is_called_with_arguments_that_fit(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="any",
        messages=ASK,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Lisbon", "Porto")
    required = client.chat.completions.create(
        model="any", messages=ASK, tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=True, seed=3
    )
    calls: Any = required.choices[0].message.tool_calls
    assert {call.function.name for call in calls} <= {"weather", "clock"}


def test_calls_are_streamed_as_openai_sends_them(client: openai.OpenAI) -> None:
    from openai.lib.streaming.chat import ChatCompletionStreamState

    options: Any = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0}
    whole: Any = client.chat.completions.create(model="any", messages=ASK, **options).choices[0].message
    state: Any = ChatCompletionStreamState()
    deltas = []
    with client.chat.completions.create(model="any", messages=ASK, stream=True, **options) as stream:
        for chunk in stream:
            state.handle_chunk(chunk)
            deltas += [call for choice in chunk.choices for call in choice.delta.tool_calls or []]
    choice = state.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert call.function.arguments == whole.tool_calls[0].function.arguments
    assert (deltas[0].function.name, deltas[0].function.arguments) == ("weather", "")
    assert len(deltas) > 3  # the arguments come as they are made
    assert all(delta.id is None for delta in deltas[1:])


def test_what_a_tool_gave_is_answered_and_remembered(client: openai.OpenAI) -> None:
    called: Any = client.chat.completions.create(
        model="any", messages=ASK, tools=[WEATHER], tool_choice="required", extra_headers={"X-Memory-Session": "tools"}
    )
    message = called.choices[0].message
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It rains."}
    answer: Any = client.chat.completions.create(
        model="any",
        messages=[*ASK, message.model_dump(), result],
        tools=[WEATHER],
        max_tokens=8,
        extra_headers={"X-Memory-Session": "tools"},
    )
    assert called.memory["version"] == 2
    assert answer.memory["version"] == 3
    kept = client.get("/sessions/tools/messages", cast_to=object)
    contents: Any = [(m["role"], m["content"]) for m in kept["data"]]  # type: ignore[index]
    assert contents[0] == ("user", ASK[0]["content"])
    assert contents[1][1].startswith("<tool_call>")
    assert contents[2] == ("tool", "It rains.")


def test_tools_that_may_be_called_may_be_left(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        reply = client.chat.completions.create(
            model="any", messages=ASK, tools=[WEATHER], tool_choice=choice, max_tokens=4, temperature=0
        )
        assert reply.choices[0].message.content is not None
    told = client.chat.completions.create(model="any", messages=ASK, tools=[WEATHER], max_tokens=1)
    untold = client.chat.completions.create(model="any", messages=ASK, max_tokens=1)
    assert told.usage is not None
    assert untold.usage is not None
    assert told.usage.prompt_tokens > untold.usage.prompt_tokens


def test_penalties_and_biases_are_taken(client: openai.OpenAI) -> None:
    options: Any = {"frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"40": 1}}
    assert client.chat.completions.create(model="any", messages=ASK, max_tokens=3, **options).choices[0].finish_reason


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}}, "type"),
        ({"structured_outputs": {"regex": "(["}}, "structured_outputs cannot be followed"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "exactly one"),
        ({"tools": [WEATHER, WEATHER]}, "one name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "no tool 'x'"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"logit_bias": {"999999": 1}}, "Token ids go from 0"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "text only"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}], "tools": [{"type": "web"}]}, "tools"),
    ],
)
def test_what_cannot_be_done_is_said(client: openai.OpenAI, options: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(says)):
        client.chat.completions.create(model="any", messages=ASK, extra_body=options)
