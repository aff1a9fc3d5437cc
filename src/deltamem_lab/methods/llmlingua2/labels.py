"""Which words of a history are telling: those that its questions and answers take up, save what all of these share."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Asked:
    """A history and what is asked about it."""

    history: str
    queries: tuple[str, ...]


def common_words(asked: Iterable[Asked], share: float) -> frozenset[str]:
    """The words, in small letters, that more than this share of all questions with answers have."""
    queries = [words_of(query) for one in asked for query in one.queries]
    counts = Counter(word for words in queries for word in words)
    return frozenset(word for word, count in counts.items() if count > share * len(queries))


def telling_spans(asked: Asked, common: frozenset[str]) -> list[tuple[int, int]]:
    """Where in a history the words begin and end that its questions and answers take up, without common ones."""
    wanted = set().union(*map(words_of, asked.queries)) - common
    return [word.span() for word in _WORD.finditer(asked.history) if word[0].lower() in wanted]


def label(pieces: Sequence[tuple[int, int]], telling: Sequence[tuple[int, int]]) -> list[int]:
    """1 for each piece that lies in a telling span, else 0; both are in the order of the text."""
    found, place = [], 0
    for start, end in pieces:
        while place < len(telling) and telling[place][1] <= start:
            place += 1
        found.append(int(end > start and place < len(telling) and telling[place][0] < end))
    return found


def words_of(text: str) -> set[str]:
    """The words of a text, in small letters."""
    return {word.lower() for word in _WORD.findall(text)}
