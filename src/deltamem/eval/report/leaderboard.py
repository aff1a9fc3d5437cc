"""The leaderboard: every method on a benchmark, the best first, with what a question costs it."""

from collections.abc import Sequence
from statistics import stdev

from deltamem.eval.leaderboard import Entry, Results
from deltamem.eval.report.blocks import Block, Heading, Paragraph, Table
from deltamem.eval.statistics import Interval, rate_interval

_INTRODUCTION = (
    "Scores are percent, of all questions of all seeds, with 95 % intervals by a bootstrap over items. A seed draws "
    "other items; what was trained is the same in each. “Over seeds” is the standard deviation of the seeds' means, "
    "and the lowest and the highest of them. Controls show what is not memory and have no rank. Costs are those of a "
    "question asked alone: the tokens that were read to keep its history, the tokens of its prompt, and the bytes kept "
    "of the history between turns. The weights of what was trained serve every history and are not counted."
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
    ranks = {entry.method: str(place) for place, entry in enumerate((e for e in ranked if not e.control), start=1)}
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


def _row(results: Results, entry: Entry) -> list[str]:
    score = _score(results, entry)
    ran = sum(found is not None for found in entry.scores)
    return [
        entry.method,
        entry.about,
        f"{100 * score.value:.1f} ({100 * score.low:.1f}–{100 * score.high:.1f})",
        _spread(results, entry),
        f"{ran:,}",
        f"{entry.cost['write_tokens']:,.0f}",
        f"{entry.cost['prompt_tokens']:,.0f}",
        f"{entry.cost['stored_bytes']:,.0f}",
    ]


def _score(results: Results, entry: Entry) -> Interval:
    """The mean over questions, with its interval over items, which needs no more than their sums."""
    values: list[float] = []
    clusters: list[str] = []
    for item, questions, total in zip(results.items, results.questions, entry.scores, strict=True):
        if total is not None:
            values += _scores(total, questions)
            clusters += [item] * questions
    return rate_interval(values, clusters)


def _scores(total: float, questions: int) -> list[float]:
    """Scores of so many questions with this sum; of right and wrong ones, the very scores but for their order."""
    return [min(max(total - place, 0.0), 1.0) for place in range(questions)]


def _spread(results: Results, entry: Entry) -> str:
    means = []
    for seed in sorted(set(results.seeds)):
        places = [p for p, own in enumerate(results.seeds) if own == seed and entry.scores[p] is not None]
        if places:
            asked = sum(results.questions[place] for place in places)
            means.append(100 * sum(entry.scores[place] or 0.0 for place in places) / asked)
    if len(means) < 2:
        return "–"
    return f"±{stdev(means):.1f} ({min(means):.1f}–{max(means):.1f})"
