"""LoCoMo's scores (Maharana et al., 2024): F1 over stemmed words, by rules that depend on the category."""

import re
import unicodedata
from collections.abc import Sequence

from deltamem_lab.metrics.text import first_line, normalise, overlap_f1, stem

MULTI_HOP, TEMPORAL, OPEN_DOMAIN, SINGLE_HOP, ADVERSARIAL = range(1, 6)
CATEGORIES = {
    MULTI_HOP: "multi-hop",
    TEMPORAL: "temporal",
    OPEN_DOMAIN: "open-domain",
    SINGLE_HOP: "single-hop",
    ADVERSARIAL: "adversarial",
}
NO_INFORMATION = "No information available"
_ADMISSIONS = ("no information available", "not mentioned")
_LETTERS = ("a", "b")
_MARKS = ("(a)", "(b)", "a)", "b)", "answer:")
_AND = re.compile(r"\band\b")


def locomo_score(answer: str, gold: str, category: int) -> float:
    """The score of one answer by the authors' code, from 0 to 1.

    Categories 2 and 4 are F1; 3 is F1 with the gold answer before its first semicolon; 1 splits both at commas
    and takes, for each part of the gold answer, the best F1 of any part of the answer, averaged; 5 asks whether
    the answer admits that there is no information.

    Raises:
        ValueError: there is no such category.
    """
    if category == MULTI_HOP:
        return _multi_hop(answer.split(","), gold.split(","))
    return _scored(answer, gold, category)


def locomo_score_as_released(answer: str, gold: str, category: int) -> float:
    """The score of one answer by the release's code: as the authors', but empty parts between commas do not count.

    Raises:
        ValueError: there is no such category.
    """
    if category == MULTI_HOP:
        return _multi_hop(*([part for part in text.split(",") if part.strip()] for text in (answer, gold)))
    return _scored(answer, gold, category)


def released_answer(output: str, options: Sequence[str] = ()) -> str:
    """The part of an output that the release scores: its first line in lower case, option marks deleted.

    Args:
        output: what the model said.
        options: the texts of the choices (a) and (b) of an adversarial question. An answer that names one by its
            letter stands for its text.
    """
    text = first_line(output.replace('\\"', "'")).lower()
    for letter, option in zip(_LETTERS, options, strict=False):
        if f"({letter})" in text or text == letter or text.startswith(f"{letter})"):
            return option
    if options and any(words in text for words in _ADMISSIONS):
        return NO_INFORMATION
    for mark in _MARKS:
        text = text.replace(mark, "")
    return text.strip()


def official_answer(output: str, options: Sequence[str] = ()) -> str:
    """The part of an output that LoCoMo's authors score.

    Args:
        output: what the model said.
        options: the texts of the choices (a) and (b) of an adversarial question. An answer with "(a)" in its
            first line stands for the first, any other answer for the second.
    """
    if not options:
        return released_answer(output)
    return options[0 if "(a)" in first_line(output).lower() else 1]


def _scored(answer: str, gold: str, category: int) -> float:
    if category == ADVERSARIAL:
        return float(any(words in answer.lower() for words in _ADMISSIONS))
    if category == OPEN_DOMAIN:
        return _f1(answer, gold.split(";")[0])
    if category in (TEMPORAL, SINGLE_HOP):
        return _f1(answer, gold)
    raise ValueError(f"LoCoMo's categories are {min(CATEGORIES)} to {max(CATEGORIES)}, not {category}.")


def _multi_hop(answers: Sequence[str], golds: Sequence[str]) -> float:
    if not answers or not golds:
        return 0.0
    return sum(max(_f1(part, wanted) for part in answers) for wanted in golds) / len(golds)


def _f1(answer: str, gold: str) -> float:
    return overlap_f1(_stems(answer), _stems(gold))


def _stems(text: str) -> list[str]:
    plain = normalise(unicodedata.normalize("NFD", text))
    return [stem(word) for word in _AND.sub(" ", plain).split()]
