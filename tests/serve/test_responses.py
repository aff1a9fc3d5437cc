"""OpenAI's Responses, asked for by its own client."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving import make_server, running

from talkers import talker

LISBON, CITY = "I settled in Lisbon some years ago.", "Which city do I live in?"
PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Lisbon", "Porto"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": PLACE, "strict": True}


@pytest.fixture(scope="module")
def told() -> Iterator[openai.OpenAI]:
    """The embedded model, which remembers."""
    with running(make_server()) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def talking() -> Iterator[openai.OpenAI]:
    """A model with room for tools."""
    with running(make_server(model=talker(positions=2048), max_tokens=48)) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, said: Any, **options: Any) -> Any:
    return client.responses.create(model="demo", input=said, temperature=0, **options)


def test_a_conversation_is_a_memory_session(told: openai.OpenAI) -> None:
    first = ask(told, LISBON, conversation="ravi")
    assert (first.status, first.conversation.id) == ("completed", "ravi")
    answer = ask(told, CITY, conversation="ravi")
    assert answer.output_text == "Lisbon."
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert told.get("/sessions/ravi", cast_to=object)["version"] == answer.memory["version"]  # type: ignore[index]


def test_a_response_is_continued_and_branches(told: openai.OpenAI) -> None:
    first = ask(told, LISBON)
    moved = ask(told, "Actually, I live in Porto now.", previous_response_id=first.id)
    assert ask(told, CITY, previous_response_id=moved.id).output_text == "Porto."
    # The first response is continued in a fork: what came later is not known there.
    assert ask(told, CITY, previous_response_id=first.id).output_text == "Lisbon."
    with pytest.raises(openai.NotFoundError, match="no response"):
        ask(told, CITY, previous_response_id="resp_nonsense")


def test_what_is_not_stored_leaves_nothing(told: openai.OpenAI) -> None:
    before = told.get("/sessions", cast_to=object)
    answer = ask(told, LISBON, store=False)
    assert answer.id.startswith("resp_")
    assert told.get("/sessions", cast_to=object) == before


def test_a_named_conversation_is_only_read_where_nothing_is_stored(told: openai.OpenAI) -> None:
    version = ask(told, LISBON, conversation="read").memory["version"]
    for memory in (None, {"session": "read"}, {"mode": "read_only"}):
        answer = ask(told, CITY, conversation="read", store=False, extra_body={"memory": memory})
        assert (answer.output_text, answer.memory["mode"]) == ("Lisbon.", "read_only")
    assert told.get("/sessions/read", cast_to=object)["version"] == version  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="different memories"):
        ask(told, CITY, conversation="read", extra_body={"memory": {"session": "another"}})


def test_a_stream_that_fails_raises_in_openais_client() -> None:
    server = make_server()
    server.engine._ends = frozenset()
    with running(server) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        client.post("/sessions", cast_to=object, body={"session": "frozen"})
        events = iter(ask(client, CITY, conversation="frozen", stream=True, max_output_tokens=300))
        assert next(events).type == "response.created"
        client.post("/sessions/frozen/freeze", cast_to=object)
        with pytest.raises(openai.APIError, match="frozen"):
            list(events)


def test_a_stream_has_openais_events(told: openai.OpenAI) -> None:
    ask(told, LISBON, conversation="stream")
    with told.responses.stream(model="demo", input=CITY, temperature=0, conversation="stream") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == "Lisbon."


def test_tools_are_called_and_answered(talking: openai.OpenAI) -> None:
    options: Any = {"tools": [WEATHER], "tool_choice": "required"}
    called = ask(talking, "How is the weather?", **options)
    (call,) = called.output
    assert (call.type, call.name) == ("function_call", "weather")
    assert json.loads(call.arguments)["city"] in ("Lisbon", "Porto")
    given = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    answer = ask(talking, [given], previous_response_id=called.id, tools=[WEATHER], max_output_tokens=4)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    whole = ask(
        talking, [{"role": "user", "content": "How is it?"}, call.model_dump(), given], max_output_tokens=4, store=False
    )
    assert whole.output[0].type == "message"
    with talking.responses.stream(model="demo", input="How is it?", temperature=0, **options) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(deltas) == done.arguments


def test_an_answer_has_its_form(talking: openai.OpenAI) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "place", "schema": PLACE, "strict": True}}
    assert json.loads(ask(talking, "Where?", text=text).output_text)["city"] in ("Lisbon", "Porto")


def test_what_cannot_be_done_is_said(told: openai.OpenAI) -> None:
    for options, says in (
        ({"conversation": "a", "previous_response_id": "b"}, "not both"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.* text only"),
        ({"input": ""}, "input: String should have at least 1 character"),
        ({"input": [{"role": "user", "content": 1}]}, "input.0.content: Input should be a text"),
        ({"tools": [{"type": "web_search"}]}, "tools.0: there are no hosted tools, so one of the type 'web_search'"),
        ({"tools": [{"type": "function"}]}, "tools.0.name: Field required"),
        ({"background": True}, "background"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            told.responses.create(model="demo", input="x", extra_body=options)
    with pytest.raises(openai.NotFoundError, match="no model for embeddings"):
        told.embeddings.create(model="demo", input="x")
