"""Recommendations of films: the titles in an answer, matched with known ones, and their recall."""

import re
from collections.abc import Sequence
from functools import lru_cache

from deltamem.extensions import from_extra

CUTS = (1, 5, 10)
_BRACKETS = re.compile(r"\([^()]*\)")
_NUMBER = re.compile(r"^\d+[.)、]?\s*[-—–]?\s*")


def recall_at(output: str, golds: Sequence[str], movies: dict[int, str] | None) -> dict[str, float]:
    """The share of the gold films, given by ids, among the first 1, 5 and 10 that an answer names; ``score`` is of 5.

    The list starts after the first "1.", one title a line (without one, titles stand between commas). A title
    stands for the known film with the smallest edit distance.

    Raises:
        ValueError: the films' names are missing, or there is none for a gold id.
    """
    if not movies:
        raise ValueError(
            "Recommendations need the films' names: pass entity2id.json of the benchmark's data as `movies` "
            "(--option movies=FILE), or leave the source recsys_redial_full out."
        )
    try:
        wanted = [movies[int(gold)] for gold in golds]
    except (KeyError, ValueError) as error:
        raise ValueError(f"There is no film with the id {error} in the file of names.") from None
    known = tuple(sorted(set(movies.values())))
    # Only the first ten lines can count, and matching one is a search through all titles.
    named = [nearest_name(title, known) for title in _titles(output)[: max(CUTS)]]
    recall = {f"recall@{cut}": sum(film in named[:cut] for film in wanted) / len(wanted) for cut in CUTS}
    return {"score": recall["recall@5"], **recall}


def film_names(entities: dict[str, int]) -> dict[int, str]:
    """Names by id from the benchmark's ``entity2id.json``: the last part of each address, made readable."""
    return {number: _clean(re.sub(r"[_\->]", " ", address.split("/")[-1])) for address, number in entities.items()}


@lru_cache(maxsize=4096)
def nearest_name(title: str, known: tuple[str, ...]) -> str:
    """The known title with the smallest edit distance (Levenshtein) in lower case; the first of equals.

    Raises:
        ImportError: rapidfuzz is not installed; the message names the extra.
        ValueError: no title is known.
    """
    if not known:
        raise ValueError("There is no known title to compare with.")
    with from_extra("eval", "Recommendations of films need rapidfuzz"):
        from rapidfuzz import process
        from rapidfuzz.distance import Levenshtein
    _, _, place = process.extractOne(title.lower(), [film.lower() for film in known], scorer=Levenshtein.distance)
    return known[place]


def _titles(output: str) -> list[str]:
    _, mark, listed = output.partition("1.")
    lines = listed.split("\n") if mark else output.replace(",", "\n").split("\n")
    return [_clean(_NUMBER.sub("", line.strip())) for line in lines]


def _clean(text: str) -> str:
    return " ".join(_BRACKETS.sub("", text).split())
