"""Conversations as chat programs keep them: ShareGPT's export, and requests and answers of OpenAI's API."""

from collections.abc import Iterator, Sequence

from deltamem.chat import Message
from deltamem.train.data.converters.example import Example, Row, Skipped, Style, need
from deltamem.train.data.lines import read_messages

# What the many exports in ShareGPT's layout call the speakers.
_NAMES = {
    "system": ("system",),
    "user": ("human", "user"),
    "assistant": ("gpt", "chatgpt", "bing", "bard", "assistant", "model", "function_call"),
    "tool": ("tool", "function", "observation", "function_response"),
}
_SPEAKERS = {name: role for role, names in _NAMES.items() for name in names}


def sharegpt(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """The conversation of a row with ``conversations``, a list of ``from`` and ``value``."""
    turns = need(row, "conversations", list)
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.append({"role": "system", "content": row["system"]})
    for turn in turns:
        speaker = need(turn, "from", str)
        if speaker not in _SPEAKERS:
            raise ValueError(f"the speaker {speaker!r} is unknown; known are {', '.join(_SPEAKERS)}")
        messages.append({"role": _SPEAKERS[speaker], "content": need(turn, "value", str)})
    yield _line(str(row.get("id", "")), messages)


def openai(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """The conversation of a logged request with its answer, or of a line for fine-tuning.

    The messages are in the row itself, or under ``request`` or ``body``; the answer in ``choices``, in the row itself
    or under ``response``, which may have it under ``body``. A line for fine-tuning has its answer among the messages.
    """
    asked = next((part for name in ("request", "body") if isinstance(part := row.get(name), dict)), row)
    messages = read_messages(need(asked, "messages", list), "messages")
    given = row.get("response")
    given = given if isinstance(given, dict) else row
    given = given["body"] if isinstance(given.get("body"), dict) and "choices" in given["body"] else given
    if isinstance(given.get("choices"), list) and given["choices"]:
        messages += read_messages([need(given["choices"][0], "message", dict)], "the answer")
    yield _line(str(row.get("id") or row.get("custom_id") or given.get("id") or ""), messages)


def _line(name: str, messages: Sequence[Message]) -> Example | Skipped:
    """The line of a conversation, up to the last answer in words; developers' messages are the system's."""
    words = [place for place, one in enumerate(messages) if one["role"] == "assistant" and one["content"].strip()]
    if not words:
        return Skipped("no answer in words")
    kept: list[Message] = [
        {**one, "role": "system"} if one["role"] == "developer" else one for one in messages[: words[-1] + 1]
    ]
    if sum(one["role"] == "user" for one in kept) < 2:
        return Skipped("one question, with nothing before it to remember")
    return Example(name, tuple(kept))
