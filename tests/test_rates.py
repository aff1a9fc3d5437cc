"""The interval of a rate."""

from deltamem.rates import wilson


def test_the_rate_lies_in_its_interval():
    for total in range(1, 200):
        for right in range(total + 1):
            low, high = wilson(right, total)
            assert 0 <= low <= right / total <= high <= 1
