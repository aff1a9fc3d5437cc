"""The leaderboard: every method on a benchmark, the best first, with what a question costs it."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import stdev

from deltamem_lab.leaderboard import MethodResults, Results
from deltamem_lab.report.blocks import Block, Heading, Paragraph, Table
from deltamem_lab.statistics import Interval, rate_of_sums

_INTRODUCTION = (
    "Scores are percent, of all questions of all seeds, with 95 % intervals by a bootstrap over items. A seed draws "
    "other items; what was trained is the same in each. “Over seeds” is the standard deviation of the seeds' means, "
    "and the lowest and the highest of them. Controls show what is not memory and have no rank, nor has what ran on "
    "fewer items than the others. Costs are those of a question asked alone: the tokens that were read to keep its "
    "history (by an encoder or a classifier in dense, memorybank and llmlingua2), the tokens of its prompt, and the "
    "bytes kept of the history between turns. The weights of what was trained serve every history and are not counted. "
    "Methods that retrieve show different amounts of text; a part of the order of bm25, dense and memorybank is that "
    "budget."
)


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
    ranked = sorted(results.entries, key=lambda entry: -_score(results, entry).value)
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
    if results.absent:
        missing = "; ".join(f"{name}: {reason}" for name, reason in results.absent.items())
        blocks.append(Paragraph(f"Not run: {missing}."))
    return blocks


def _row(results: Results, entry: MethodResults) -> list[str]:
    score = _score(results, entry)
    return [
        entry.method,
        entry.about,
        f"{100 * score.value:.1f} ({100 * score.low:.1f}–{100 * score.high:.1f})",
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


def _score(results: Results, entry: MethodResults) -> Interval:
    """The mean over questions, with its interval over items, which needs no more than their sums."""
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    # An item that several seeds ask about is one text.
    for item, total, asked in zip(results.items, entry.scores, results.questions, strict=True):
        if total is not None:
            sums[item] += total
            counts[item] += asked
    return rate_of_sums(list(sums.values()), list(counts.values()))


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
