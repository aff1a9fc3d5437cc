"""Intervals over few seeds of many points."""

import math

import numpy as np
import pytest

from deltamem_lab.sweep.results import over_seeds


def test_the_variance_is_pooled() -> None:
    found = over_seeds({"a": [1.0, 3.0], "b": [10.0, 10.0], "c": [5.0], "d": []})
    assert found.keys() == {"a", "b", "c"}
    spread = 4.302653 * math.sqrt((1 + 1 + 0 + 0) / 2)
    for name, mean, seeds in (("a", 2, 2), ("b", 10, 2), ("c", 5, 1)):
        assert found[name].value == mean
        assert found[name].high - mean == pytest.approx(spread / math.sqrt(seeds))
        assert mean - found[name].low == pytest.approx(spread / math.sqrt(seeds))


def test_without_a_second_seed_there_is_no_interval() -> None:
    assert math.isnan(over_seeds({"a": [1.0], "b": [2.0]})["a"].high)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truths = np.linspace(0, 1, 5)
    held = 0
    for _ in range(1000):
        drawn = rng.normal(truths[:, None], 0.3, size=(5, 2))
        intervals = over_seeds({str(i): list(row) for i, row in enumerate(drawn)})
        held += sum(intervals[str(i)].low <= truth <= intervals[str(i)].high for i, truth in enumerate(truths))
    assert 0.94 < held / 5000 < 0.96
