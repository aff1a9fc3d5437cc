"""Tools: how a prompt describes them, and how calls are found in what the model says."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem.files import from_json
from deltamem.serve.engine.constraint import CallShape
from deltamem.serve.engine.text import overlap

HERMES = CallShape("<tool_call>\n", "\n</tool_call>", "\n", "arguments")
"""Hermes, Qwen, SmolLM3, and every model whose template knows no tools."""
LLAMA3 = CallShape("", "", "; ", "parameters")
"""Llama 3: the whole answer is a call."""


def syntax_of(template: str) -> CallShape:
    """The syntax that a chat template teaches."""
    if "<tool_call>" not in template and "parameters" in template and "ipython" in template:
        return LLAMA3
    return HERMES


def knows_tools(template: str) -> bool:
    """Whether a chat template tells the model of tools by itself."""
    return re.search(r"\btools\b", template) is not None


def explained(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a system message says of tools, for templates that do not."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"You may call these tools:\n<tools>\n{listed}\n</tools>\nTo call one, answer with\n"
        '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>'
    )


def written(calls: Sequence[Mapping[str, Any]], shape: CallShape) -> str:
    """Calls, each with ``name`` and ``arguments``, as the model would have written them."""
    texts = (json.dumps({"name": call["name"], shape.arguments: call["arguments"]}) for call in calls)
    return shape.between.join(f"{shape.begin}{text}{shape.end}" for text in texts)


@dataclass(frozen=True)
class Said:
    """Text that is not a call."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call begins: its number among the answer's, its id, and the tool's name."""

    number: int
    id: str
    name: str


@dataclass(frozen=True)
class Argued:
    """The arguments of a call go on."""

    number: int
    text: str


Event = Said | Called | Argued
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


class CallReader:
    """Reads calls out of an answer as it comes. What looks like a call and is none is given as text."""

    def __init__(self, shape: CallShape) -> None:
        self.calls = 0
        self._begin, self._end = shape.begin.strip(), shape.end.strip()
        self._state = self._text
        self._held = ""
        self._depth = 0
        self._quoted = self._escaped = False

    def push(self, text: str) -> list[Event]:
        """Takes a piece in, and gives what is certain by now."""
        self._held += text
        events: list[Event] = []
        while True:
            state, held = self._state, self._held
            events += self._state(last=False)
            if (self._state, self._held) == (state, held) or not self._held:
                return events

    def finish(self) -> list[Event]:
        """What was held back, once nothing follows."""
        events = self._state(last=True)
        self._held = ""
        return events

    def _text(self, last: bool) -> list[Event]:
        if not self._begin:  # a call is all that is said, or nothing of it
            bare = self._held.lstrip()
            if bare.startswith("{") and not last:
                self._held, self._state = bare, self._head
                return []
            if bare and not last:
                self._state = self._plain
            return self._say(self._held) if last else []
        text, found, rest = self._held.partition(self._begin)
        if found:
            self._held, self._state = rest, self._head
            return self._say(text.rstrip())
        if last:
            return self._say(text)
        sure = text[: len(text) - overlap(text, self._begin)].rstrip()
        self._held = text[len(sure) :]
        return self._say(sure)

    def _plain(self, last: bool) -> list[Event]:
        text, self._held = self._held, ""
        return self._say(text)

    def _head(self, last: bool) -> list[Event]:
        head = _HEAD.match(self._held)
        if head:
            self._held, self._state = self._held[head.end() :], self._arguments
            self._depth, self._quoted, self._escaped = 0, False, False
            return [self._call(json.loads(head[1]))]
        inner, closed, rest = self._held.partition(self._end) if self._end else (self._held, "", "")
        if not (closed or last):
            return []
        self._held, self._state = rest, self._text
        whole = _whole_call(inner)
        if whole is None:
            return self._say(f"{self._begin}{inner}{closed}")
        begun = self._call(whole[0])
        return [begun, Argued(begun.number, whole[1])]

    def _arguments(self, last: bool) -> list[Event]:
        for place, character in enumerate(self._held):
            if self._quoted:
                self._quoted = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
                continue
            self._quoted = character == '"'
            self._depth += (character in "{[") - (character in "}]")
            if not self._depth:
                text, self._held = self._held[: place + 1], self._held[place + 1 :]
                self._state = self._tail
                return [Argued(self.calls - 1, text)]
        text, self._held = self._held, ""
        return [Argued(self.calls - 1, text)] if text else []

    def _tail(self, last: bool) -> list[Event]:
        if self._end:
            _, found, rest = self._held.partition(self._end)
            if found:
                self._held, self._state = rest, self._text
            return []
        rest = self._held.lstrip()
        if rest.startswith("}"):
            self._held, self._state = rest[1:], self._next
        return []

    def _next(self, last: bool) -> list[Event]:
        rest = self._held.lstrip()
        if rest.startswith(";"):
            self._held, self._state = rest[1:], self._text
        elif rest:
            self._state = self._plain
        return []

    def _say(self, text: str) -> list[Event]:
        """Text, without the white space between calls."""
        return [Said(text)] if text and (text.strip() or not self.calls) else []

    def _call(self, name: str) -> Called:
        self.calls += 1
        return Called(self.calls - 1, f"call_{uuid.uuid4().hex[:24]}", name)


def read_calls(text: str, shape: CallShape) -> tuple[str, list[dict[str, Any]]]:
    """What a whole answer says beside its calls, and these as OpenAI shows them."""
    reader = CallReader(shape)
    said: list[str] = []
    calls: list[dict[str, Any]] = []
    for event in [*reader.push(text), *reader.finish()]:
        if isinstance(event, Said):
            said.append(event.text)
        elif isinstance(event, Called):
            calls.append({"id": event.id, "type": "function", "function": {"name": event.name, "arguments": ""}})
        else:
            calls[event.number]["function"]["arguments"] += event.text
    return "".join(said), calls


def _whole_call(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call whose parts come in another order; ``None`` if it is not a call."""
    try:
        found = from_json(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", found.get("parameters", {}))
    return found["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)
