"""Intervals and verdicts: what a difference between two methods is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["better", "worse", "cannot tell"]
_Z95 = 1.959964
_DRAWS = 10_000
_FEW_CLUSTERS = 5
_LEAST_DIFFERENT = 6


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
            else ``cannot tell``. Of fewer, not even all in one direction are rare by chance (sign test, 2 · 2⁻⁵).
        clusters: the items it comes from.
        questions: the questions both answered.
    """

    interval: Interval
    verdict: Verdict
    clusters: int
    questions: int


def wilson(right: float, total: int) -> Interval:
    """The 95 % interval of a rate (E. B. Wilson, 1927), taking the answers as independent.

    Raises:
        ValueError: there are none.
    """
    if total < 1:
        raise ValueError("A rate needs at least one answer.")
    p, z = right / total, _Z95
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    centre, scale = p + z * z / (2 * total), 1 + z * z / total
    return Interval(p, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def mean_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0) -> Interval:
    """A mean and its 95 % interval by a bootstrap over clusters: questions about one text stand or fall together.

    Of fewer than five clusters, questions are drawn instead: so few say nothing about their spread.

    Args:
        values: one a question.
        clusters: the item each question belongs to.
        seed: of the draws.

    Raises:
        ValueError: there are no values, or not one cluster for each.
    """
    sums, counts = _by_cluster(values, clusters)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_DRAWS)
    means = (drawn @ sums) / np.maximum(drawn @ counts, 1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def rate_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0) -> Interval:
    """The interval of a mean of scores in [0, 1]: by bootstrap, and by Wilson where no item differs from another.

    Raises:
        ValueError: as :func:`mean_interval`.
    """
    found = mean_interval(values, clusters, seed=seed)
    if found.low < found.high:
        return found
    units = len(_by_cluster(values, clusters)[0])
    return wilson(found.value * units, units)


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], *, seed: int = 0
) -> Difference:
    """The difference of two methods on the same questions, with a verdict.

    Raises:
        ValueError: the lengths differ, or there are no questions.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences, clusters, seed=seed)
    verdict: Verdict = "cannot tell"
    if np.count_nonzero(_by_cluster(differences, clusters)[0]) >= _LEAST_DIFFERENT:
        verdict = "better" if interval.low > 0 else "worse" if interval.high < 0 else "cannot tell"
    return Difference(interval, verdict, len(set(clusters)), len(differences))


def _by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters; there must be as many, and at least one.")
    names = sorted(set(clusters))
    if len(names) < _FEW_CLUSTERS:
        return np.asarray(values, dtype=np.float64), np.ones(len(values))
    place = {name: number for number, name in enumerate(names)}
    rows = np.array([place[cluster] for cluster in clusters])
    return (
        np.bincount(rows, weights=np.asarray(values, dtype=np.float64), minlength=len(names)).astype(np.float64),
        np.bincount(rows, minlength=len(names)).astype(np.float64),
    )
