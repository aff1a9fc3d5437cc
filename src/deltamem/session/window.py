"""Which messages stay visible as text, and which fit into a prompt."""

from collections.abc import Callable, Sequence

from deltamem.chat import ChatTokens, Message
from deltamem.session.retrieval import Exchange


def first_visible(
    messages: Sequence[Message], lengths: Sequence[int], *, most_messages: int | None, most_tokens: int | None
) -> int:
    """The number of the first message, of those from the oldest on, that stays visible; those before it leave.

    What stays begins with a user's message, because an answer without its question, or a tool's result without
    the call, misleads the model, and many chat templates refuse it.
    """
    first = 0 if most_messages is None else max(0, len(messages) - most_messages)
    if most_tokens is not None:
        total = sum(lengths[first:])
        while total > most_tokens:
            total -= lengths[first]
            first += 1
    while first < len(messages) and messages[first]["role"] != "user":
        first += 1
    return first


def message_lengths(chat: ChatTokens, count: int) -> list[int]:
    """How many tokens each of the ``count`` messages of a rendered conversation has."""
    numbers = chat.message[0]
    return numbers[numbers >= 0].bincount(minlength=count).tolist()


def fit_prompt(
    encode: Callable[[list[Message]], ChatTokens],
    system: list[Message],
    retrieved: list[Exchange],
    past: list[Message],
    new: list[Message],
    *,
    positions: int | None,
    answer: int,
) -> tuple[ChatTokens, list[Exchange], list[Message]]:
    """A prompt that leaves the backbone room to answer: what is oldest gives way, first of what was retrieved.

    Args:
        encode: renders messages and the header of the answer.
        system: the system message, or nothing.
        retrieved: turns that come back, before what is visible.
        past: what is visible.
        new: what is to be answered.
        positions: how many tokens the backbone has positions for; any number if ``None``.
        answer: how many of them the answer may take. At most half are kept free for it.

    Returns:
        the prompt, and what is left in it of ``retrieved`` and ``past``.

    Raises:
        ValueError: ``new`` alone is too long.
    """
    while True:
        back = [message for exchange in retrieved for message in exchange]
        messages = [*system, *back, *past, *new]
        chat = encode(messages)
        length = chat.input_ids.shape[1]
        if positions is None or length + min(answer, positions // 2) <= positions:
            return chat, retrieved, past
        if retrieved:
            retrieved = retrieved[1:]
        elif past:
            lengths = message_lengths(chat, len(messages))[len(system) : len(system) + len(past)]
            room = sum(lengths) - (length + min(answer, positions // 2) - positions)
            past = past[first_visible(past, lengths, most_messages=None, most_tokens=max(0, room)) :]
        elif length < positions:
            return chat, retrieved, past
        else:
            raise ValueError(
                f"The message has {length} tokens and the backbone {positions} positions; "
                "write long texts with observe() and ask about them."
            )
