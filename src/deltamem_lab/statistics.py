"""Intervals and verdicts: what a difference between two methods is worth.

Questions about one text stand or fall together, so texts are drawn and not questions. Of few texts the intervals of the
plain bootstrap are too narrow (of ten, one in ten misses). Here they are widened as Student's are (T. Hesterberg,
2015), which leaves 5 to 7 % that miss, from six texts on. Answers to one question that was asked several times are no
more independent than that: they count as their mean.

A table has many verdicts, and each of them is read as a claim of its own. So they are corrected by Holm's method, which
keeps the chance of even one wrong among all of them at 5 % whatever they have in common: they do have much, such as the
reference. Control of the false-discovery rate would find more, but lets one in twenty of what it finds be wrong, and
nothing in a table says which.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from deltamem.rates import Z95, wilson

Verdict = Literal["better", "worse", "cannot tell"]
# Of fewer texts not even all in one direction are rare by chance (sign test, 2 · 2⁻⁵), and their spread is not known.
LEAST_ITEMS = 6
EXPLAINED = (
    "Intervals are 95 %, by a bootstrap over items that is widened as Student's intervals are, so that questions about "
    "one text stand or fall together; of fewer than six items they are over questions and say nothing of other items. "
    "Differences are paired, on the same questions. “Better” and “worse” mean that the interval leaves zero out, that "
    "at least six items differ, and that the difference holds among all verdicts of its table (Holm's correction: the "
    "chance that even one of them is wrong is 5 %). So an interval can leave zero out where the verdict is “cannot "
    "tell”."
)
_LEVEL = 0.05
# A difference should be found in four runs of five.
_Z_POWER = NormalDist().inv_cdf(0.8)
_DRAWS = 10_000
# Of more than so many units the bootstrap's interval is the normal one, which needs no draws.
_MANY = 500

Key = TypeVar("Key")
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
            else ``cannot tell``. Of several, :func:`corrected` gives those that hold together.
        clusters: the items it comes from; of fewer than :data:`LEAST_ITEMS` the interval is over their questions.
        questions: the questions both answered.
        p: how likely a difference as large would be without a true one; by Student's t over items, and never less
            than if all items that differ did so in one direction by chance.
        error: the standard error of the mean difference, over items.
    """

    interval: Interval
    verdict: Verdict
    clusters: int
    questions: int
    p: float
    error: float

    def findable(self, verdicts: int = 1) -> float:
        """The smallest true difference that as many items show in four runs of five, in a table of so many verdicts."""
        return (NormalDist().inv_cdf(1 - _LEVEL / (2 * verdicts)) + _Z_POWER) * self.error

    def items_for(self, difference: float, verdicts: int = 1) -> int:
        """About how many such items show a true difference in four runs of five.

        Args:
            difference: in the metric's own unit.
            verdicts: of the table it would stand in.

        Raises:
            ValueError: the difference is not positive.
        """
        if difference <= 0:
            raise ValueError(f"The difference to detect must be positive, not {difference}.")
        return max(LEAST_ITEMS, math.ceil(self.clusters * (self.findable(verdicts) / difference) ** 2))


def rate(right: float, total: int) -> Interval:
    """A rate and its interval, taking the answers as independent; see :func:`~deltamem.rates.wilson`.

    Raises:
        ValueError: there are no answers.
    """
    low, high = wilson(right, total)
    return Interval(right / total, low, high)


def mean_interval(values: Sequence[float], clusters: Sequence[str], questions: Sequence[str] | None = None) -> Interval:
    """A mean and its 95 % interval by a bootstrap over clusters; of fewer than six, over questions.

    Args:
        values: one an answer.
        clusters: the item each answer is about.
        questions: the question within its item that it answers, where some are answered several times.

    Raises:
        ValueError: there are no values, or not one cluster for each.
    """
    return _bootstrap(*_units(values, clusters, questions))


def rate_interval(values: Sequence[float], clusters: Sequence[str], questions: Sequence[str] | None = None) -> Interval:
    """The interval of a mean of scores in [0, 1]; see :func:`mean_interval` and :func:`rate_of_sums`.

    Raises:
        ValueError: as :func:`mean_interval`.
    """
    sums, counts = _units(values, clusters, questions)
    if len(set(clusters)) < LEAST_ITEMS:
        return rate(float((sums / counts).sum()), len(sums))
    return rate_of_sums(sums, counts)


def rate_of_sums(sums: Numbers, counts: Numbers) -> Interval:
    """The interval of a mean of scores in [0, 1], from the sum and the number of scores of each item.

    By bootstrap; by Wilson over items where no item differs from another, and over questions of fewer than six items.

    Raises:
        ValueError: there are no scores, or not one number for each sum.
    """
    if len(sums) != len(counts) or not sum(counts):
        raise ValueError(f"{len(sums)} sums and {len(counts)} counts; there must be as many, and at least one score.")
    if len(sums) < LEAST_ITEMS:
        return rate(float(sum(sums)), round(sum(counts)))
    found = _bootstrap(sums, counts)
    # Equal scores that are no whole numbers differ by rounding once they are drawn.
    if math.isclose(found.low, found.high):
        return rate(found.value * len(sums), len(sums))
    # The normal interval of many items can go beyond what a rate can be.
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[str],
    questions: Sequence[str] | None = None,
) -> Difference:
    """The difference of two methods on the same questions, as :func:`mean_interval` takes them, with a verdict.

    Raises:
        ValueError: the lengths differ, or there are no questions.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences, clusters, questions)
    asked = len(differences) if questions is None else len(set(zip(clusters, questions, strict=True)))
    return _judged(interval, *_by_cluster(differences, clusters), asked)


def difference_of_sums(sums: Numbers, counts: Numbers) -> Difference:
    """The same from the sum of the differences of each item's questions, and their number.

    Raises:
        ValueError: there are fewer than six items, whose interval needs their questions.
    """
    if len(sums) < LEAST_ITEMS:
        raise ValueError(f"A difference from the sums of items needs {LEAST_ITEMS} of them, not {len(sums)}.")
    return _judged(_bootstrap(sums, counts), sums, counts, round(sum(counts)))


def _judged(interval: Interval, sums: Numbers, counts: Numbers, questions: int) -> Difference:
    differing = int(np.count_nonzero(np.asarray(sums)))
    verdict: Verdict = "cannot tell"
    if differing >= LEAST_ITEMS:
        verdict = "better" if interval.low > 0 else "worse" if interval.high < 0 else "cannot tell"
    error = _error(sums, counts)
    p = max(_p_of_t(interval.value, error, len(sums) - 1), min(1.0, 2.0 ** (1 - differing)))
    return Difference(interval, verdict, len(sums), questions, p, error)


def corrected(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The same with the verdicts that hold together (S. Holm, 1979), and ``p`` adjusted for their number."""
    found: dict[Key, Difference] = {}
    largest = 0.0
    for place, (key, one) in enumerate(sorted(differences.items(), key=lambda pair: pair[1].p)):
        largest = max(largest, min(1.0, (len(differences) - place) * one.p))
        found[key] = replace(one, p=largest, verdict=one.verdict if largest <= _LEVEL else "cannot tell")
    return {key: found[key] for key in differences}


def student(freedom: int) -> float:
    """The 0.975 quantile of Student's t with so many degrees of freedom, at least one."""
    return float(stdtrit(freedom, 0.975))


def _error(sums: Numbers, counts: Numbers) -> float:
    """The standard error of the ratio of the totals; infinite of a single unit."""
    total, number, units = np.asarray(sums), np.asarray(counts), len(sums)
    if units < 2:
        return math.inf
    residuals = total - total.sum() / number.sum() * number
    return float(np.linalg.norm(residuals) / number.sum() * math.sqrt(units / (units - 1)))


def _p_of_t(value: float, error: float, free: int) -> float:
    """Two-sided, of Student's t."""
    if value == 0 or math.isinf(error):
        return 1.0
    return 0.0 if error == 0 else float(2 * stdtr(free, -abs(value) / error))


def _units(
    values: Sequence[float], clusters: Sequence[str], questions: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums and numbers of what is drawn: items, or the questions of fewer than six."""
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters; there must be as many, and at least one.")
    if len(set(clusters)) >= LEAST_ITEMS:
        return _by_cluster(values, clusters)
    names = map(str, range(len(values))) if questions is None else questions
    return _by_cluster(values, [f"{item}/{name}" for item, name in zip(clusters, names, strict=True)])


def _bootstrap(sums: Numbers, counts: Numbers) -> Interval:
    """The ratio of the totals, and the expanded percentile interval of drawing as many units as there are."""
    total, number, units = np.asarray(sums), np.asarray(counts), len(sums)
    value = float(total.sum() / number.sum())
    if units > _MANY:
        spread = Z95 * float(np.linalg.norm(total - value * number) / number.sum())
        return Interval(value, value - spread, value + spread)
    drawn = _drawn(units)
    means = (drawn @ total) / np.maximum(drawn @ number, 1)
    tail = _tail(units)
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(value, float(low), float(high))


@lru_cache(maxsize=2)
def _drawn(units: int) -> NDArray[np.float64]:
    """How often each unit is in each of the draws, ``[draws, units]``; a table needs the same ones many times."""
    draws = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=_DRAWS)
    return draws.astype(np.float64)


def _tail(units: int) -> float:
    """What is cut off at either end, less than 2.5 % as Student's t of so many units is above the normal's quantile."""
    if units < 2:
        return 0.025
    return float(ndtr(-student(units - 1) * math.sqrt(units / (units - 1))))


def _by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum and the number of the values of each cluster."""
    _, rows = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(rows, weights=np.asarray(values, dtype=np.float64)).astype(np.float64)
    return sums, np.bincount(rows).astype(np.float64)
