"""Intervals and verdicts: what a difference between two methods is worth.

Questions about one text stand or fall together, so texts are drawn and not questions. Of few texts the intervals of the
plain bootstrap are too narrow (of ten, one in ten misses). Here they are widened as Student's are (T. Hesterberg,
2015), which leaves 5 to 7 % that miss, from six texts on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deltamem.rates import Z95, wilson

Verdict = Literal["better", "worse", "cannot tell"]
# Of fewer texts not even all in one direction are rare by chance (sign test, 2 · 2⁻⁵), and their spread is not known.
LEAST_ITEMS = 6
EXPLAINED = (
    "Intervals are 95 %, by a bootstrap over items that is widened as Student's intervals are, so that questions about "
    "one text stand or fall together; of fewer than six items they are over questions and say nothing of other items. "
    "Differences are paired, on the same questions. “Better” and “worse” mean that the interval leaves zero out and at "
    "least six items differ; of fewer items the verdict is always “cannot tell”. Each is one of many comparisons: of "
    "twenty without any difference, one would be expected to."
)
_DRAWS = 10_000
# Of more than so many units the bootstrap's interval is the normal one, which needs no draws.
_MANY = 500

Numbers = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference between two methods.

    Attributes:
        interval: the mean difference; positive if the first is better.
        verdict: in words: ``better`` or ``worse`` if the interval leaves zero out and at least six items differ,
            else ``cannot tell``.
        clusters: the items it comes from; of fewer than :data:`LEAST_ITEMS` the interval is over their questions.
        questions: the questions both answered.
    """

    interval: Interval
    verdict: Verdict
    clusters: int
    questions: int


def rate(right: float, total: int) -> Interval:
    """A rate and its interval, taking the answers as independent; see :func:`~deltamem.rates.wilson`.

    Raises:
        ValueError: there are no answers.
    """
    low, high = wilson(right, total)
    return Interval(right / total, low, high)


def mean_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0) -> Interval:
    """A mean and its 95 % interval by a bootstrap over clusters; of fewer than six, over questions.

    Args:
        values: one a question.
        clusters: the item each question belongs to.
        seed: of the draws.

    Raises:
        ValueError: there are no values, or not one cluster for each.
    """
    sums, counts = _by_cluster(values, clusters)
    if len(sums) < LEAST_ITEMS:
        return _bootstrap(values, [1] * len(values), seed)
    return _bootstrap(sums, counts, seed)


def rate_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0) -> Interval:
    """The interval of a mean of scores in [0, 1]; see :func:`rate_of_sums`.

    Raises:
        ValueError: as :func:`mean_interval`.
    """
    return rate_of_sums(*_by_cluster(values, clusters), seed=seed)


def rate_of_sums(sums: Numbers, counts: Numbers, *, seed: int = 0) -> Interval:
    """The interval of a mean of scores in [0, 1], from the sum and the number of scores of each item.

    By bootstrap; by Wilson over items where no item differs from another, and over questions of fewer than six items.

    Raises:
        ValueError: there are no scores, or not one number for each sum.
    """
    if len(sums) != len(counts) or not sum(counts):
        raise ValueError(f"{len(sums)} sums and {len(counts)} counts; there must be as many, and at least one score.")
    if len(sums) < LEAST_ITEMS:
        return rate(float(sum(sums)), round(sum(counts)))
    found = _bootstrap(sums, counts, seed)
    # Equal scores that are no whole numbers differ by rounding once they are drawn.
    if math.isclose(found.low, found.high):
        return rate(found.value * len(sums), len(sums))
    # The normal interval of many items can go beyond what a rate can be.
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high))


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], *, seed: int = 0
) -> Difference:
    """The difference of two methods on the same questions, with a verdict.

    Raises:
        ValueError: the lengths differ, or there are no questions.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences, clusters, seed=seed)
    sums, _ = _by_cluster(differences, clusters)
    verdict: Verdict = "cannot tell"
    if np.count_nonzero(sums) >= LEAST_ITEMS:
        verdict = "better" if interval.low > 0 else "worse" if interval.high < 0 else "cannot tell"
    return Difference(interval, verdict, len(sums), len(differences))


def _bootstrap(sums: Numbers, counts: Numbers, seed: int) -> Interval:
    """The ratio of the totals, and the expanded percentile interval of drawing as many units as there are."""
    total, number, units = np.asarray(sums), np.asarray(counts), len(sums)
    value = float(total.sum() / number.sum())
    if units > _MANY:
        spread = Z95 * float(np.linalg.norm(total - value * number) / number.sum())
        return Interval(value, value - spread, value + spread)
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=_DRAWS)
    means = (drawn @ total) / np.maximum(drawn @ number, 1)
    tail = _tail(units)
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def _tail(units: int) -> float:
    """What is cut off at either end, less than 2.5 % as Student's t of so many units is above the normal's quantile."""
    if units < 2:
        return 0.025
    z, free = Z95, units - 1
    # Cornish and Fisher's expansion of the quantile of t; from five degrees of freedom on it is off by 0.003 at most.
    t = (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )
    return 0.5 * math.erfc(t * math.sqrt(units / free) / math.sqrt(2))


def _by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum and the number of the values of each cluster."""
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters; there must be as many, and at least one.")
    _, rows = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(rows, weights=np.asarray(values, dtype=np.float64)).astype(np.float64)
    return sums, np.bincount(rows).astype(np.float64)
