"""MemoryBank's forgetting (Zhong et al., 2023, section 2.3): Ebbinghaus' curve, and strengthening on recall."""

import math
import random
from dataclasses import dataclass


def retention(elapsed: float, strength: int) -> float:
    """R = exp(−t/S), the chance that a memory is still there ``elapsed`` days after it was learnt or last recalled."""
    return math.exp(-elapsed / strength)


@dataclass
class _Trace:
    since: int
    strength: int
    chance: float


class Forgetting:
    """Which memories are still there on a day.

    A memory is learnt with strength S = 1. Recalling it adds 1 and sets t back to 0. One number is drawn for it each
    time, uniformly from [0, 1), and it is gone once R is no larger: so it is there with probability R on any one day,
    however many days are looked at, and what is gone does not come back.

    Args:
        seed: of the numbers.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._traces: list[_Trace] = []

    def learn(self, day: int) -> int:
        """A new memory; returns its number."""
        self._traces.append(_Trace(day, 1, self._random.random()))
        return len(self._traces) - 1

    def recall(self, number: int, day: int) -> None:
        """A memory comes to mind.

        Raises:
            ValueError: it is forgotten.
        """
        if not self.remembers(number, day):
            raise ValueError(f"Memory {number} is forgotten on day {day} and cannot be recalled.")
        trace = self._traces[number]
        self._traces[number] = _Trace(day, trace.strength + 1, self._random.random())

    def strength(self, number: int) -> int:
        """S of a memory."""
        return self._traces[number].strength

    def remembers(self, number: int, day: int) -> bool:
        """Whether a memory is still there."""
        trace = self._traces[number]
        return trace.chance < retention(max(0, day - trace.since), trace.strength)
