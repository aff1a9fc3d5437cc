"""The leaderboard: every method on a benchmark, the best first, with what a question costs it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev

from deltamem_lab.leaderboard import MethodResults, Results
from deltamem_lab.report.blocks import Block, Heading, Paragraph, Table
from deltamem_lab.report.contents import power, verdict
from deltamem_lab.statistics import (
    EXPLAINED,
    LEAST_ITEMS,
    Difference,
    Interval,
    difference_of_sums,
    rate_of_sums,
)
from deltamem_lab.summary import compare_all, references

Scores = Sequence[float | None]

_INTRODUCTION = (
    "Scores are percent of all questions of all seeds, with 95 % intervals by a bootstrap over items. Each seed draws "
    "other items; the trained weights are the same. “Over seeds” is the standard deviation of the seeds' means, with "
    "the lowest and the highest. Controls show what is not memory and have no rank; nor do methods that ran on fewer "
    "items. Costs are those of a question asked alone: the tokens read to keep its history (by an encoder or a "
    "classifier for dense, memorybank and compression), the tokens of its prompt, and the bytes kept of the history "
    "between turns. Trained weights serve every history and are not counted. Methods that retrieve show different "
    "amounts of text, which partly explains the order of bm25, dense and memorybank."
)
_KINDS = "Percent by part of the benchmark: the best method overall need not be the best in each part."


def leaderboard(several: Sequence[Results]) -> list[Block]:
    """The blocks of the page.

    Raises:
        ValueError: there are no results.
    """
    if not several:
        raise ValueError("There are no results; name a run of deltamem eval, or files that deltamem leaderboard kept.")
    return [Heading("Leaderboard", 1), Paragraph(_INTRODUCTION), *(b for one in several for b in _section(one))]


def _section(results: Results) -> list[Block]:
    seeds = sorted(set(results.seeds))
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    said = (
        f"{len(results.items):,} items, {sum(results.questions):,} questions, seeds {', '.join(map(str, seeds))}; "
        f"backbone {results.model or 'not named'}; {versions}. Made by: {'; '.join(results.commands) or 'not known'}"
    )
    ranked = sorted(results.entries, key=lambda entry: -_score(results, entry.scores).value)
    rivals = [entry for entry in ranked if not entry.control and None not in entry.scores]
    ranks = {entry.method: str(place) for place, entry in enumerate(rivals, start=1)}
    head = [
        "rank",
        "method",
        "what it is",
        f"{results.metric}, %",
        "over seeds",
        "items",
        "tokens read to write",
        "tokens of the prompt",
        "bytes kept",
    ]
    rows = [[ranks.get(entry.method, "–"), *_row(results, entry)] for entry in ranked]
    blocks: list[Block] = [Heading(f"{results.task}, protocol {results.protocol}"), Paragraph(said), Table(head, rows)]
    blocks += _kinds(results, ranked)
    blocks += _differences(results, ranked)
    if results.absent:
        missing = "; ".join(f"{name}: {reason}" for name, reason in results.absent.items())
        blocks.append(Paragraph(f"Not run: {missing}."))
    return blocks


def _row(results: Results, entry: MethodResults) -> list[str]:
    score = _score(results, entry.scores)
    return [
        entry.method,
        entry.about,
        _percent(score),
        _spread(results, entry),
        _items(results, entry),
        f"{entry.cost['write_tokens']:,.0f}",
        f"{entry.cost['prompt_tokens']:,.0f}",
        f"{entry.cost['stored_bytes']:,.0f}",
    ]


def _items(results: Results, entry: MethodResults) -> str:
    """How many items it ran on; of fewer than all, also of how many and of which seeds."""
    seeds = [seed for seed, score in zip(results.seeds, entry.scores, strict=True) if score is not None]
    if len(seeds) == len(results.seeds):
        return f"{len(seeds):,}"
    several = sorted(set(seeds))
    named = f"seed{'s' * (len(several) > 1)} {', '.join(map(str, several))}"
    return f"{len(seeds):,} of {len(results.seeds):,} ({named})"


def _kinds(results: Results, ranked: Sequence[MethodResults]) -> list[Block]:
    """The scores by source, where there are several."""
    sources = sorted(set(results.sources), key=_in_order)
    if len(sources) < 2:
        return []
    rows = []
    for entry in ranked:
        cells = [entry.method]
        for source in sources:
            part = [score if own == source else None for own, score in zip(results.sources, entry.scores, strict=True)]
            cells.append(_percent(_score(results, part)) if any(score is not None for score in part) else "–")
        rows.append(cells)
    return [Heading("By kind", 3), Paragraph(_KINDS), Table(["method", *sources], rows)]


def _in_order(source: str) -> tuple[float, str]:
    """By the number a name begins with, if it does."""
    first = source.split(" ")[0]
    return (float(first) if first.isdigit() else math.inf), source


def _differences(results: Results, ranked: Sequence[MethodResults]) -> list[Block]:
    """What each method is better or worse than, its own controls among it."""
    scores = {entry.method: entry.scores for entry in ranked}
    prints = {entry.method: entry.adapter for entry in ranked}
    held = compare_all(prints, lambda name, other: _difference(results, scores[name], scores[other]))
    if not held:
        return []
    compared = references(scores)
    rows = [[name, *(verdict(held.get((name, reference))) for reference in compared)] for name in scores]
    return [
        Heading("Differences, points", 3),
        Paragraph(f"{EXPLAINED} {power(list(held.values()))}".strip()),
        Table(["method", *(f"against {reference}" for reference in compared)], rows),
    ]


def _difference(results: Results, first: Scores, second: Scores) -> Difference | None:
    paired = tuple(None if a is None or b is None else a - b for a, b in zip(first, second, strict=True))
    sums, counts = _by_item(results, paired)
    return difference_of_sums(sums, counts) if len(sums) >= LEAST_ITEMS else None


def _score(results: Results, scores: Scores) -> Interval:
    """The mean over questions, with its interval over items, which needs no more than their sums."""
    return rate_of_sums(*_by_item(results, scores))


def _by_item(results: Results, scores: Scores) -> tuple[list[float], list[float]]:
    """The sum and number of each item's questions; of an item that several seeds ask about, the mean over them."""
    sums: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, list[int]] = defaultdict(list)
    for item, total, asked in zip(results.items, scores, results.questions, strict=True):
        if total is not None:
            sums[item].append(total)
            counts[item].append(asked)
    return [fmean(of) for of in sums.values()], [fmean(of) for of in counts.values()]


def _percent(score: Interval) -> str:
    return f"{100 * score.value:.1f} ({100 * score.low:.1f}–{100 * score.high:.1f})"


def _spread(results: Results, entry: MethodResults) -> str:
    means = []
    for seed in sorted(set(results.seeds)):
        places = [p for p, own in enumerate(results.seeds) if own == seed and entry.scores[p] is not None]
        if places:
            asked = sum(results.questions[place] for place in places)
            means.append(100 * sum(entry.scores[place] or 0.0 for place in places) / asked)
    if len(means) < 2:
        return "–"
    return f"±{stdev(means):.1f} ({min(means):.1f}–{max(means):.1f})"
