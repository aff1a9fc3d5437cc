"""What the benchmarks' scorers share: normalised texts, exact and partial matches."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from deltamem.extensions import from_extra

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_WORD = re.compile(r"[^\w\s]")
_VERDICTS = frozenset({"yes", "no", "noanswer"})


def normalise(text: str) -> str:
    """The normalisation of SQuAD and HotpotQA: lower case, no punctuation, no articles, single spaces.

    Punctuation is deleted before articles are, so "U.S." becomes "us" and "well-known" one word.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normalise_as_released(text: str) -> str:
    """The release's normalisation: lower case, no articles, then punctuation to *spaces*, single spaces.

    Other than :func:`normalise` it makes "u s" of "U.S." and splits "well-known" in two. Punctuation is all that
    Unicode counts as no word, so quotation marks go, and the underscore stays.
    """
    return " ".join(_NO_WORD.sub(" ", _ARTICLES.sub(" ", text.lower())).split())


def overlap_f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over tokens as multisets; 0 where nothing is shared."""
    shared = sum((Counter(answer) & Counter(gold)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def token_f1(answer: str, gold: str) -> float:
    """F1 over the words of two texts after :func:`normalise`."""
    return overlap_f1(normalise(answer).split(), normalise(gold).split())


def token_f1_as_released(answer: str, gold: str) -> float:
    """F1 over the words of two texts by the release's rules: two texts without a word are the same, so 1."""
    words, wanted = normalise_as_released(answer).split(), normalise_as_released(gold).split()
    return overlap_f1(words, wanted) if words and wanted else float(words == wanted)


def strict_f1(answer: str, gold: str) -> float:
    """HotpotQA's F1: that of :func:`token_f1`, but a yes or no on one side alone counts nothing."""
    sides = {normalise(answer), normalise(gold)}
    return 0.0 if len(sides) > 1 and sides & _VERDICTS else token_f1(answer, gold)


def exact(answer: str, gold: str, normal: Callable[[str], str] = normalise) -> float:
    """1 if the two texts are the same after normalisation, else 0."""
    return float(normal(answer) == normal(gold))


def contains(answer: str, gold: str, normal: Callable[[str], str] = normalise) -> float:
    """1 if the gold answer stands anywhere in the answer after normalisation, else 0.

    Letters count, not words: "cat" is in "education".
    """
    return float(normal(gold) in normal(answer))


def best(score: Callable[[str, str], float], answer: str, golds: Iterable[str]) -> float:
    """The highest score over all accepted answers; 0 if there are none."""
    return max((score(answer, gold) for gold in golds), default=0.0)


def first_line(text: str) -> str:
    """The first line that is not blank, without spaces around it; empty if there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


@cache
def stem(word: str) -> str:
    """A word's stem by NLTK's Porter stemmer, the one LoCoMo's authors score with.

    Raises:
        ImportError: nltk is not installed; leaving stemming out would give other scores.
    """
    return str(_stemmer().stem(word))


@cache
def _stemmer() -> Any:
    with from_extra("eval", "LoCoMo is scored with nltk"):
        from nltk.stem.porter import PorterStemmer
    return PorterStemmer()
