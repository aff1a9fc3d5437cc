"""Letters of a multiple-choice answer, read as the release reads them (GPQA)."""

import re

_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r'```json\s*\{[^{}]*?"answer"\s*:\s*"([A-D])"[^{}]*?\}\s*```',
        r'"answer"\s*:\s*"([A-D])"',
        r"\\boxed\{\s*([A-D])\s*\}",
        r"(?:(?:final|correct)\s+answer|answer)\s*:\s*\(?([A-D])\b",
        r"(?:final|correct)\s+answer(?:\s+is)?\s*:?\s*\(?([A-D])\b",
    )
)
_LINE = re.compile(r"^\(?([A-D])(?:[.):].*)?$", re.IGNORECASE)


def chosen_letter(output: str) -> str | None:
    """The letter A to D that an answer settles on, or None.

    The last match of the first pattern that is found at all: a JSON block, an ``"answer"`` field, a box, "answer:",
    "the final answer is"; else the first and then the last line if it is a letter alone or starts like "B." does.
    """
    for pattern in _PATTERNS:
        if found := pattern.findall(output):
            return str(found[-1]).upper()
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in (*lines[:1], *lines[-1:]):
        if match := _LINE.match(line):
            return match[1].upper()
    return None
