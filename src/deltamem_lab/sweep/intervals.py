"""Means over seeds and their 95 % intervals, when there are many points and few seeds of each."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from deltamem_lab.statistics import Interval

# The 0.975 quantiles of Student's t with 1 to 30 degrees of freedom, and the start of its series in 1/ν beyond.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL, _FIRST, _SECOND = 1.95996, 2.37227, 2.82250


def over_seeds(values: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """The mean of each point and its 95 % interval over seeds.

    Two seeds say next to nothing about the spread of their own point. So one variance is taken for all points, pooled
    from all of them, as in an analysis of variance: an interval is the mean ± t s / √n, with as many degrees of
    freedom as there are seeds beyond the first of each point.

    Args:
        values: a value a seed, by point; points without any are left out.

    Returns:
        the interval of each point; not-a-number for its ends where no point has two seeds.
    """
    known = {name: given for name, given in values.items() if given}
    freedom = sum(len(given) - 1 for given in known.values())
    if not freedom:
        return {name: Interval(fmean(given), math.nan, math.nan) for name, given in known.items()}
    squares = sum((value - fmean(given)) ** 2 for given in known.values() for value in given)
    spread = student(freedom) * math.sqrt(squares / freedom)
    found = {}
    for name, given in known.items():
        mean, half = fmean(given), spread / math.sqrt(len(given))
        found[name] = Interval(mean, mean - half, mean + half)
    return found


def student(freedom: int) -> float:
    """The 0.975 quantile of Student's t, to three decimals.

    Raises:
        ValueError: there are no degrees of freedom.
    """
    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, not {freedom}.")
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return _NORMAL + _FIRST / freedom + _SECOND / freedom**2
