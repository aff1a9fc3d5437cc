"""MemoryAgentBench's scores (Hu et al., 2025), by its authors' rules for each source and by the release's."""

import re
from collections.abc import Sequence
from functools import partial

from deltamem_lab.metrics.movies import recall_at
from deltamem_lab.metrics.text import (
    best,
    contains,
    exact,
    first_line,
    normalise_as_released,
    strict_f1,
    token_f1_as_released,
)

_ANSWER = re.compile(r"answer:(.*)(?:\n|$)", re.IGNORECASE)
_FIRST = re.compile(r"^(.*)(?:\n|$)")


def mab_scores(
    source: str, output: str, golds: Sequence[str], movies: dict[int, str] | None = None
) -> dict[str, float]:
    """The scores of one answer by the benchmark's own code, ``score`` the one its authors report.

    Exact match for the label and detective sources, substring match for documents and facts, all of the gold
    texts in the answer for EventQA, recall among the first five for recommendations. Where the authors ask a
    judge (``longmemeval``, ``infbench``) there is no ``score``: :mod:`deltamem_lab.metrics.judge` gives it.

    Args:
        source: the row's source, such as ``"icl_banking77_5900shot_balance"``.
        output: what the model said.
        golds: the accepted answers; for recommendations the ids of the films.
        movies: the films' names by id, for recommendations.

    Raises:
        ValueError: recommendations without the films' names, or with a film that has none.
    """
    if source.startswith("recsys"):
        return recall_at(output, golds, movies)
    parsed = parsed_answer(output)
    # Labels are read from the parsed answer alone, everything else from whichever text scores higher.
    texts = [parsed] if source.startswith(("icl", "eventqa")) else [output, parsed]
    scores = {
        "exact_match": max(best(exact, text, golds) for text in texts),
        "substring_match": max(best(contains, text, golds) for text in texts),
        "f1": max(best(strict_f1, text, golds) for text in texts),
    }
    if source.startswith("eventqa"):
        scores["recall"] = float(all(gold.lower() in output.lower() for gold in golds))
    if (headline := _headline(source)) is not None:
        scores["score"] = scores[headline]
    return scores


def mab_scores_as_released(
    source: str, output: str, golds: Sequence[str], movies: dict[int, str] | None = None
) -> dict[str, float]:
    """The scores of one answer by the release's rules; ``score`` is what the paper's tables average.

    An answer counts if any gold answer equals its first line or all of it, or stands anywhere in it; summaries
    count by F1, recommendations by recall among the first five. A gold answer without a word is left out.

    Raises:
        ValueError: recommendations without the films' names.
    """
    if source.startswith("recsys"):
        return recall_at(output, golds, movies)
    texts = [output, first_line(output)]
    known = [gold for gold in golds if normalise_as_released(gold)]
    f1 = max(best(token_f1_as_released, text, known) for text in texts)
    if source.startswith("infbench"):
        return {"score": f1, "f1": f1}
    equal = max(best(partial(exact, normal=normalise_as_released), text, known) for text in texts)
    within = best(partial(contains, normal=normalise_as_released), output, known)
    return {"score": max(equal, within), "exact_match": equal, "substring_match": within, "f1": f1}


def parsed_answer(output: str) -> str:
    """What stands after the first "Answer:" up to the line's end, else the first line."""
    match = _ANSWER.search(output) or _FIRST.search(output)
    text = match[1].strip() if match else ""
    return re.sub(r"^answer:", "", text, flags=re.IGNORECASE).strip()


def _headline(source: str) -> str | None:
    if source.startswith(("longmemeval", "infbench")):
        return None
    if source.startswith(("icl", "detective")):
        return "exact_match"
    return "recall" if source.startswith("eventqa") else "substring_match"
