"""Retrieval beside memory: the past turns that share the most telling words with a message (BM25)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deltamem.chat import Message
from deltamem.chat.words import CJK, comparable
from deltamem.extensions import from_extra

Exchange = tuple[Message, ...]
_WORD = re.compile(r"\w+")
_CLITIC = re.compile(r"(?<=\w)['’](?:s|t|d|m|re|ve|ll)\b")
_CJK = re.compile(f"([{CJK}]+)")
_COMMON = """
a an and are as at be but by for i if in into is it no not of on or such that the their then there these they this
to was will with
"""
_TOO_COMMON = frozenset(_COMMON.split())


@dataclass(frozen=True)
class Retriever:
    """How a session brings back past turns that are no longer visible.

    The session then keeps the text of all its turns, in this process and only for this purpose. It does not keep
    observed documents.

    Attributes:
        into: ``"prompt"`` shows the turns to the model again, before what is visible. ``"memory"`` reads them
            into a copy of the memory, which answers this one message and is then dropped.
        turns: the most turns brought back.
    """

    into: Literal["prompt", "memory"] = "prompt"
    turns: int = 3

    def __post_init__(self) -> None:
        if self.into not in ("prompt", "memory"):
            raise ValueError(f"A retriever puts turns into 'prompt' or 'memory', not {self.into!r}.")
        if self.turns < 1:
            raise ValueError(f"A retriever brings back at least one turn, not {self.turns}.")

    def relevant(self, log: Sequence[Exchange], message: str) -> list[Exchange]:
        """The turns of ``log`` that share words with a message, most telling first chosen, in their own order.

        Raises:
            ImportError: bm25s is not installed; the message names the extra.
        """
        texts = [" ".join(part["content"] for part in exchange) for exchange in log]
        found = best_matches(texts, [message], self.turns)[0] if log else []
        return [log[place] for place, score in found if score > 0]


def best_matches(texts: Sequence[str], queries: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
    """For each query the places of the ``count`` texts that BM25 ranks highest, ascending, with their scores.

    Raises:
        ImportError: bm25s is not installed; the message names the extra.
    """
    with from_extra("retrieval", "Retrieval needs bm25s"):
        import bm25s

    count = min(count, len(texts))
    corpus = [words(text) for text in texts]
    if not any(corpus):  # bm25s cannot index texts without a single word
        return [[(place, 0.0) for place in range(count)] for _ in queries]
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    places, scores = index.retrieve([words(query) for query in queries], k=count, show_progress=False)
    return [sorted(zip(*row, strict=True)) for row in zip(places.tolist(), scores.tolist(), strict=True)]


def words(text: str) -> list[str]:
    """The words of a text as they are compared: compatible characters are one, and case does not count.

    A text in Chinese or Japanese characters or in Hangul marks no words: each of its characters is one, and each pair
    of neighbours.
    """
    found: list[str] = []
    for word in _WORD.findall(_CLITIC.sub("", comparable(text))):
        for run in _CJK.split(word):
            if run and _CJK.fullmatch(run):
                found += [*run, *(run[place : place + 2] for place in range(len(run) - 1))]
            elif run and run not in _TOO_COMMON:
                found.append(run)
    return found


def exchanges(messages: Sequence[Message]) -> list[Exchange]:
    """Messages in turns, each of which begins with a user's message."""
    turns: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return [tuple(turn) for turn in turns]
