"""Real chat between the told facts, so that a memory learns to keep them over long histories."""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from deltamem.chat import Message
from deltamem.train.data.lines import BadDataError, RawLine, parse_json, parse_messages, raw_lines
from deltamem.train.data.options import DataOptions

# How often a conversation may be drawn that has no room left, before a history counts as full.
_TRIES = 3


class Exchange(NamedTuple):
    """What somebody says, with the answers to it, and how many tokens that is."""

    messages: tuple[Message, ...]
    tokens: int


class Chats:
    """Conversations of other people, to be drawn from.

    Args:
        conversations: the messages of each; :func:`conversations` reads them.
        count: how many tokens a message has, as a :class:`Renderer` counts them.
    """

    def __init__(self, conversations: Iterable[Sequence[Message]], count: Callable[[Message], int]) -> None:
        self.count = count
        self.conversations = [
            [Exchange(tuple(said), sum(map(count, said))) for said in exchanges(messages)] for messages in conversations
        ]

    def draw(self, rng: random.Random, tokens: int) -> list[Exchange]:
        """The beginnings of conversations, one after another, of at most so many tokens and about as many."""
        found: list[Exchange] = []
        tries = 0
        while tries < _TRIES:
            for exchange in rng.choice(self.conversations):
                if exchange.tokens > tokens:
                    break
                found.append(exchange)
                tokens -= exchange.tokens
            else:
                continue
            tries += 1
        return found

    def around(self, rng: random.Random, messages: Sequence[Message], tokens: int) -> tuple[Message, ...]:
        """The messages in their order, with chat of at most so many tokens before, between and after them."""
        chat, told = self.draw(rng, tokens), exchanges(messages)
        places = sorted(rng.randint(0, len(chat)) for _ in told)
        merged: list[Message] = []
        for number, exchange in enumerate([*chat, Exchange((), 0)]):
            while places and places[0] == number:
                places.pop(0)
                merged += told.pop(0)
            merged += exchange.messages
        return tuple(merged)


def conversations(path: str | Path) -> list[list[Message]]:
    """The conversations of a file, folder or glob pattern of JSON lines, without system messages and empty ones.

    A line has ``messages``, or ``turns`` of a speaker and a text each, as Synthetic-Persona-Chat has them; then user
    and assistant speak by turns.

    Raises:
        BadDataError: a line is bad, or there are no conversations.
    """
    found = []
    for line in raw_lines(DataOptions(path=path)):
        try:
            messages = _messages(line)
        except ValueError as error:
            raise BadDataError(f"{line.source}:{line.number}: {error}.") from None
        found.append([message for message in messages if message["role"] in ("user", "assistant")])
    if not any(found):
        raise BadDataError(f"{path} has no conversations.")
    return [messages for messages in found if messages]


def _messages(line: RawLine) -> list[Message]:
    row = parse_json(line)
    if not isinstance(row, dict) or "turns" not in row:
        return parse_messages(line)
    try:
        texts = [str(text) for _, text in row["turns"]]
    except (TypeError, ValueError):
        raise ValueError("turns must be a list of a speaker and a text each") from None
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def exchanges(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in groups: each user's message with the answers to it."""
    found: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not found:
            found.append([])
        found[-1].append(message)
    return found
