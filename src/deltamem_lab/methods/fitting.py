"""Prompts that fit: what is oldest gives way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from deltamem.chat import Message
from deltamem_lab.interface import Budget, Document, Entry, as_text
from deltamem_lab.tasks.chunks import chunks_of


class NoRoomError(ValueError):
    """A question is longer than any prompt may be."""


Render = Callable[[Sequence[Entry], Budget], list[Message]]


def fit(render: Render, history: Sequence[Entry], budget: Budget) -> tuple[list[Message], bool]:
    """A prompt that there is room for: as the task cuts it, or if it does not, with the end of the history.

    Whole entries give way, oldest first; of the last document, or one longer than the room, the end stays.

    Returns:
        the prompt, and whether some of the history is missing.

    Raises:
        NoRoomError: the prompt is too long with no history at all.
    """
    whole = render(history, budget)
    if budget.fits(whole):
        return whole, budget.tokens is not None and whole != render(history, replace(budget, tokens=None))
    bare = render((), budget)
    if not budget.fits(bare):
        raise NoRoomError(f"A question alone has {budget.length(bare)} tokens, but only {budget.tokens} fit.")

    def last(number: int) -> Sequence[Entry]:
        return history[len(history) - number :]

    kept = budget.most(len(history) - 1, lambda number: render(last(number), budget))
    before = history[len(history) - kept - 1]
    if not isinstance(before, Document):
        return render(last(kept), budget), True
    words = before.text.split(" ")

    def with_end(number: int) -> list[Entry]:
        end = [replace(before, text=" ".join(words[len(words) - number :]))] if number else []
        return [*end, *last(kept)]

    shown = budget.most(len(words) - 1, lambda number: render(with_end(number), budget))
    return render(with_end(shown), budget), True


def chunks(history: Sequence[Entry], characters: int) -> list[list[Entry]]:
    """A history in the units that retrieval brings back: turns that begin with a user's message, and passages.

    A long document is cut into passages of at most ``characters``, where a paragraph, a line or a sentence ends.
    """
    units: list[list[Entry]] = []
    for place, entry in enumerate(history):
        if isinstance(entry, Document):
            passages = (piece.strip() for piece in chunks_of(entry.text, characters))
            units += [[replace(entry, text=text)] for text in passages if text]
        elif entry["role"] == "user" or not units or not isinstance(history[place - 1], Mapping):
            units.append([entry])
        else:
            units[-1].append(entry)
    return units


def packed(units: Sequence[Sequence[Entry]], tokens: int, count: Callable[[str], int]) -> list[list[Entry]]:
    """Units put together, in their order, as long as they have no more than so many tokens.

    One that has more alone stays alone.

    Raises:
        ValueError: there is no room for a token.
    """
    if tokens < 1:
        raise ValueError(f"A unit has at least one token, not {tokens}.")
    found: list[list[Entry]] = []
    used = tokens
    for unit in units:
        long = sum(count(as_text(entry)) for entry in unit)
        if used + long > tokens:
            found.append([])
            used = 0
        found[-1] += unit
        used += long
    return found
