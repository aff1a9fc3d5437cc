"""Prompts that fit: what is oldest gives way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from deltamem.chat import Message
from deltamem.eval.interface import Document, Entry

Render = Callable[[Sequence[Entry]], list[Message]]


def fit(
    render: Render,
    history: Sequence[Entry],
    length: Callable[[Sequence[Message]], int],
    count: Callable[[str], int],
    limit: int | None,
) -> tuple[list[Message], bool]:
    """A prompt of at most ``limit`` tokens that shows the end of a history.

    Whole entries give way, oldest first; of the last document, or one longer than the room, the end stays.

    Args:
        render: the prompt that shows a part of a history.
        history: what is to be shown.
        length: how many tokens a prompt is.
        count: how many tokens a text is.
        limit: the most tokens of the prompt; ``None`` for any number.

    Returns:
        the prompt, and whether some of the history is missing.

    Raises:
        ValueError: the prompt is too long with no history at all.
    """
    whole = render(history)
    if limit is None or length(whole) <= limit:
        return whole, False
    bare = render(())
    if length(bare) > limit:
        raise ValueError(f"A question alone has {length(bare)} tokens, and {limit} fit.")
    # The most entries of the end that fit, by bisection: a prompt grows with what it shows.
    low, high = 0, len(history)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if length(render(history[len(history) - middle :])) <= limit else (low, middle)
    kept = list(history[len(history) - low :]) if low else []
    return _with_part(render, history, kept, length, limit), True


def _with_part(
    render: Render, history: Sequence[Entry], kept: list[Entry], length: Callable[[Sequence[Message]], int], limit: int
) -> list[Message]:
    """The prompt with ``kept`` and as much of the end of the entry before them as fits, if that is a document."""
    before = history[len(history) - len(kept) - 1]
    if not isinstance(before, Document):
        return render(kept)
    words = before.text.split(" ")
    low, high = 0, len(words)
    while high - low > 1:
        middle = (low + high) // 2
        part = replace(before, text=" ".join(words[len(words) - middle :]))
        low, high = (middle, high) if length(render([part, *kept])) <= limit else (low, middle)
    if not low:
        return render(kept)
    return render([replace(before, text=" ".join(words[len(words) - low :])), *kept])


def chunks(history: Sequence[Entry], characters: int) -> list[list[Entry]]:
    """A history in the units that retrieval brings back: turns that begin with a user's message, and passages.

    A long document is cut into passages of about ``characters`` where a line or a sentence ends.
    """
    units: list[list[Entry]] = []
    for place, entry in enumerate(history):
        if isinstance(entry, Document):
            units += [[replace(entry, text=text)] for text in _passages(entry.text, characters)]
        elif entry["role"] == "user" or not units or not isinstance(history[place - 1], Mapping):
            units.append([entry])
        else:
            units[-1].append(entry)
    return units


def _passages(text: str, characters: int) -> list[str]:
    passages: list[str] = []
    while len(text) > characters:
        places = (text.rfind("\n", 1, characters), text.rfind(". ", 1, characters) + 1, text.rfind(" ", 1, characters))
        cut = next((place for place in places if place > characters // 2), characters)
        passages.append(text[:cut])
        text = text[cut:].lstrip()
    return [*passages, text]
