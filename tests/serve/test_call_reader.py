"""Calls of tools read out of what a model says, whatever the pieces it comes in."""

import json

import pytest

from deltamem.serve.engine.constraint import CallShape
from deltamem.serve.tools import (
    HERMES,
    LLAMA3,
    Argued,
    Called,
    CallReader,
    Said,
    knows_tools,
    read_calls,
    syntax_of,
    written,
)

WEATHER = {"name": "weather", "arguments": {"city": 'Porto "}{', "days": [1, {"a": "\\"}]}}
CLOCK = {"name": "clock", "arguments": {}}


def in_pieces(text: str, size: int, syntax: CallShape) -> tuple[str, list[tuple[str, str]]]:
    reader = CallReader(syntax)
    events = [event for place in range(0, len(text), size) for event in reader.push(text[place : place + size])]
    said, calls = "", []
    for event in [*events, *reader.finish()]:
        if isinstance(event, Said):
            said += event.text
        elif isinstance(event, Called):
            calls.append((event.name, ""))
        elif isinstance(event, Argued):
            calls[event.number] = (calls[event.number][0], calls[event.number][1] + event.text)
    return said, calls


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("syntax", [HERMES, LLAMA3], ids=["hermes", "llama3"])
def test_calls_come_out_as_they_were_written(syntax: CallShape, size: int) -> None:
    text = written([WEATHER, CLOCK], syntax)
    said, calls = in_pieces(text, size, syntax)
    assert said == ""
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [
        (call["name"], call["arguments"]) for call in (WEATHER, CLOCK)
    ]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        ("Nothing to call.", "Nothing to call.", []),
        ("a < b <tool", "a < b <tool", []),
        (f"Let me see.\n{written([CLOCK], HERMES)}\n", "Let me see.", ["clock"]),
        ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
        ('<tool_call>{"arguments": {"a": 1}, "name": "late"}</tool_call>', "", ["late"]),
        ('<tool_call>\n{"name": "cut", "argu', '<tool_call>\n{"name": "cut", "argu', []),
    ],
)
def test_what_is_no_call_is_text(text: str, said: str, names: list[str], size: int) -> None:
    found, calls = in_pieces(text, size, HERMES)
    assert found == said
    assert [name for name, _ in calls] == names


@pytest.mark.parametrize("size", [1, 1000])
def test_a_call_nested_too_deeply_is_text(size: int) -> None:
    deep = '<tool_call>{"arguments": ' + '{"a": ' * 5000 + "1" + "}" * 5000 + ', "name": "late"}</tool_call>'
    assert in_pieces(deep, size, HERMES) == (deep, [])


@pytest.mark.parametrize("size", [1, 1000])
def test_llama_says_text_or_calls(size: int) -> None:
    assert in_pieces("It is {late}.", size, LLAMA3) == ("It is {late}.", [])
    assert in_pieces('{"a": 1}', size, LLAMA3) == ('{"a": 1}', [])
    assert in_pieces('{"name": "clock", "parameters": {}}', size, LLAMA3) == ("", [("clock", "{}")])


def test_a_whole_answer_is_read_the_same_way() -> None:
    text, calls = read_calls(f"Hm.\n{written([WEATHER], HERMES)}", HERMES)
    assert text == "Hm."
    assert calls[0]["type"] == "function"
    assert json.loads(calls[0]["function"]["arguments"]) == WEATHER["arguments"]


def test_the_syntax_follows_from_the_template() -> None:
    assert syntax_of("{% if tools %}<tool_call>{% endif %}") is HERMES
    assert syntax_of('{"name": x, "parameters": y} ipython') is LLAMA3
    assert not knows_tools("{{ message['content'] }}")
