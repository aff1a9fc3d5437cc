"""Intervals and verdicts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_lab.statistics import (
    LEAST_ITEMS,
    Difference,
    Interval,
    corrected,
    difference_of_sums,
    mean_interval,
    paired_difference,
    rate,
    rate_interval,
    rate_of_sums,
)

SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=30)


def test_wilson_against_a_known_value() -> None:
    found = rate(81, 263)
    # R. G. Newcombe (1998), Table I, method 3.
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert rate(0, 10).low == 0
    assert rate(10, 10).high == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one"):
        rate(0, 0)


@settings(max_examples=25, deadline=None)
@given(SCORES, st.data())
def test_a_difference_is_the_opposite_the_other_way_round(first: list[float], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(first), max_size=len(first)))
    clusters = [str(number // 2) for number in range(len(first))]
    there, back = paired_difference(first, second, clusters), paired_difference(second, first, clusters)
    assert there.interval.value == pytest.approx(-back.interval.value)
    assert there.interval.low == pytest.approx(-back.interval.high, abs=1e-9)
    assert there.interval.low <= there.interval.value <= there.interval.high or len(set(clusters)) < LEAST_ITEMS
    opposite = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
    assert back.verdict == opposite[there.verdict]


def test_verdicts() -> None:
    clusters = [str(number) for number in range(40)]
    ones, zeros, mixed = [1.0] * 40, [0.0] * 40, [1.0, 0.0] * 20
    assert paired_difference(ones, zeros, clusters).verdict == "better"
    assert paired_difference(zeros, ones, clusters).verdict == "worse"
    assert paired_difference(mixed, mixed, clusters).verdict == "cannot tell"
    assert paired_difference(mixed, mixed[::-1], clusters).verdict == "cannot tell"


def test_few_differences_are_no_verdict() -> None:
    for items, verdict in ((1, "cannot tell"), (5, "cannot tell"), (6, "better")):
        clusters = [str(number) for number in range(items)]
        found = paired_difference([1.0] * items, [0.0] * items, clusters)
        assert (found.verdict, found.interval.value) == (verdict, 1)
    many = [str(number) for number in range(100)]
    assert paired_difference([1.0] * 5 + [0.0] * 95, [0.0] * 100, many).verdict == "cannot tell"


@pytest.mark.parametrize(("items", "questions"), [(1, 100), (4, 100), (6, 100), (10, 150), (20, 20)])
def test_without_a_true_difference_verdicts_are_rare_however_much_items_differ(items: int, questions: int) -> None:
    rng = np.random.default_rng(0)
    clusters = [str(item) for item in range(items) for _ in range(questions)]
    found = 0
    for _ in range(150 if items >= LEAST_ITEMS else 15):
        # Each item favours one method or the other, by chance.
        chance = np.repeat(1 / (1 + np.exp(-rng.normal(0, 0.5, items))), questions)
        first, second = (rng.random(items * questions) < p for p in (chance, 1 - chance))
        found += paired_difference(first.astype(float), second.astype(float), clusters).verdict != "cannot tell"
    # 5 % expected, of 150 at most 15 in 99 runs of 100; the plain bootstrap gives 20 and more of six items.
    assert found == 0 if items < LEAST_ITEMS else found <= 15


def test_rates_from_the_sums_of_items_are_those_of_their_scores() -> None:
    scores = [[1.0, 0.0], [0.5], [1.0], [0.0, 0.0, 1.0], [1.0], [0.25]]
    values, clusters = zip(*[(score, str(n)) for n, item in enumerate(scores) for score in item], strict=True)
    assert rate_of_sums([sum(item) for item in scores], [len(item) for item in scores]) == rate_interval(
        values, clusters
    )
    assert rate_of_sums([3.0, 1.0], [4, 2]) == rate(4, 6)
    with pytest.raises(ValueError, match="2 sums and 1 counts"):
        rate_of_sums([1.0, 2.0], [3])


def test_a_rate_of_equal_items_is_not_certain() -> None:
    found = rate_interval([1.0] * 4, list("abcd"))
    assert (found.value, round(found.low, 2)) == (1, 0.51)
    assert rate_interval([0.0, 1.0] * 4, list("abcdefgh")) == mean_interval([0.0, 1.0] * 4, list("abcdefgh"))
    for score in (0.1, 1 / 3, 0.7):  # drawn, their sums differ by rounding
        equal, wanted = rate_interval([score] * 10, list("abcdefghij")), rate(score * 10, 10)
        assert (equal.low, equal.high) == pytest.approx((wanted.low, wanted.high))


def test_a_rate_of_many_items_stays_a_rate() -> None:
    rare = [1.0, *[0.0] * 540]
    items = [str(number) for number in range(541)]
    assert mean_interval(rare, items).low < 0
    assert rate_interval(rare, items).low == 0
    assert rate_interval([1 - score for score in rare], items).high == 1


def test_questions_about_one_text_count_as_one() -> None:
    values = [1.0, 0.0] * 10
    alone = mean_interval(values, [str(number) for number in range(20)])
    tenfold = mean_interval(
        [value for value in values for _ in range(10)], [str(n) for n in range(20) for _ in range(10)]
    )
    assert (tenfold.low, tenfold.high) == pytest.approx((alone.low, alone.high))
    independent = mean_interval([value for value in values for _ in range(10)], [str(n) for n in range(200)])
    assert independent.high - independent.low < 0.5 * (alone.high - alone.low)


def test_of_many_items_the_interval_hardly_depends_on_their_number() -> None:
    scores = np.random.default_rng(0).random(501)
    items = [str(number) for number in range(501)]
    fewer, more = mean_interval(list(scores[:500]), items[:500]), mean_interval(list(scores), items)
    assert (more.low, more.high) == pytest.approx((fewer.low, fewer.high), abs=0.003)


def test_the_same_values_give_the_same_interval() -> None:
    values, clusters = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0], list("abcdef")
    assert mean_interval(values, clusters) == mean_interval(values, clusters)
    with pytest.raises(ValueError, match="as many"):
        mean_interval(values, clusters[1:])


def test_a_question_that_is_asked_again_counts_once() -> None:
    """The same answers by five seeds say no more of few items than those of one."""
    scores, items, asked = [1.0, 0.0] * 50, ["text"] * 100, [str(number) for number in range(100)]
    once = rate_interval(scores, items, asked)
    assert rate_interval(scores * 5, items * 5, asked * 5) == once
    assert rate_interval(scores * 5, items * 5).high < once.high
    assert rate_interval([0.0] * 6, ["text"] * 6, ["a", "b", "c"] * 2) == rate(0, 3)
    assert mean_interval(scores * 5, items * 5, asked * 5) == mean_interval(scores, items, asked)
    several = paired_difference(scores * 5, [0.5] * 500, items * 5, asked * 5)
    assert several.interval == paired_difference(scores, [0.5] * 100, items, asked).interval
    assert several.questions == 100


def a_difference(p: float) -> Difference:
    return Difference(Interval(0.1, 0.05, 0.15), "better", 20, 20, p, 0.02)


def test_verdicts_hold_among_all_of_a_table() -> None:
    # S. Holm (1979): the smallest of four is taken four times, the next three times, and so on.
    found = corrected(
        {"a": a_difference(0.01), "b": a_difference(0.04), "c": a_difference(0.03), "d": a_difference(0.005)}
    )
    assert [round(found[name].p, 3) for name in "abcd"] == [0.03, 0.06, 0.06, 0.02]
    assert [found[name].verdict for name in "abcd"] == ["better", "cannot tell", "cannot tell", "better"]
    assert list(found) == list("abcd")
    assert corrected({"only": a_difference(0.04)})["only"].verdict == "better"


def test_of_many_comparisons_without_a_difference_hardly_any_table_has_a_verdict() -> None:
    rng = np.random.default_rng(1)
    # Of so many items no draws are needed.
    clusters = [str(item) for item in range(510)]
    alone = together = 0
    for _ in range(40):
        table = {n: paired_difference(rng.random(510), rng.random(510), clusters) for n in range(20)}
        alone += any(one.verdict != "cannot tell" for one in table.values())
        together += any(one.verdict != "cannot tell" for one in corrected(table).values())
    # Of twenty comparisons two tables of three have one by chance; corrected, one table in twenty.
    assert alone > 15
    assert together <= 6


def test_p_is_students() -> None:
    # t of 2.5 over 9 degrees of freedom: 0.0339 (two-sided); the deviations here give just that.
    values = np.array([1.0, -1.0] * 5)
    shift = 2.5 * values.std(ddof=1) / np.sqrt(10)
    found = paired_difference(values + shift, np.zeros(10), [str(n) for n in range(10)])
    assert found.p == pytest.approx(0.0339, abs=5e-4)
    # What differs on six items can be no rarer than six coins that fall alike.
    assert paired_difference([1.0] * 6, [0.0] * 6, list("abcdef")).p == 2**-5


def test_the_items_that_a_difference_needs_do_find_it() -> None:
    rng = np.random.default_rng(2)
    trial = rng.normal(0.3, 1.0, 200)
    found = paired_difference(trial, np.zeros(200), [str(n) for n in range(200)])
    needed = found.items_for(0.3)
    assert needed == pytest.approx(87, abs=12)  # (2.8 / 0.3)², with the deviation of the trial
    assert found.findable() == pytest.approx(2.8 * found.error, rel=0.01)
    assert found.items_for(0.3, verdicts=50) > needed
    clusters = [str(n) for n in range(needed)]
    hits = sum(
        paired_difference(rng.normal(0.3, 1.0, needed), np.zeros(needed), clusters).verdict == "better"
        for _ in range(60)
    )
    assert 38 <= hits <= 57  # 48 expected
    with pytest.raises(ValueError, match="positive"):
        found.items_for(0)


def test_a_difference_from_the_sums_of_items_is_that_of_their_questions() -> None:
    items = [str(n // 2) for n in range(16)]
    first, second = [1.0, 0.0] * 8, [0.0, 0.0, 0.0, 1.0] * 4
    sums = [sum(first[n : n + 2]) - sum(second[n : n + 2]) for n in range(0, 16, 2)]
    assert difference_of_sums(sums, [2] * 8) == paired_difference(first, second, items)
    with pytest.raises(ValueError, match="6 of them, not 2"):
        difference_of_sums([1.0, 0.0], [1, 1])
