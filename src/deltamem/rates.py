"""Rates: the interval of so many right answers of so many."""

import math

Z95 = 1.959964


def wilson(right: float, total: float) -> tuple[float, float]:
    """The 95 % interval of a rate (E. B. Wilson, 1927), taking the answers as independent; it lies in [0, 1].

    Raises:
        ValueError: there are no answers.
    """
    if total < 1:
        raise ValueError("A rate needs at least one answer.")
    p, z = right / total, Z95
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    centre, scale = p + z * z / (2 * total), 1 + z * z / total
    # Rounding must not put the rate itself outside, as at a rate of 1.
    return max(0.0, min(p, (centre - spread) / scale)), min(1.0, max(p, (centre + spread) / scale))
