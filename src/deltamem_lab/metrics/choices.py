"""Letters of a multiple-choice answer, read as the release reads them (GPQA)."""

import re

# In this order: a JSON block, a JSON field, a box, "answer: C", "the correct answer is C".
_MARKED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r'```json\s*\{[^`]*?"answer"\s*:\s*"([A-D])"[^`]*\}\s*```',
        r'"answer"\s*:\s*"([A-D])"',
        r"\\boxed\{\s*(?:\\text\{)?\s*([A-D])\s*\}?\s*\}",
        r"answer\s*[:：]\s*\**\s*([A-D])\b",
        r"(?:final|correct) answer\s*(?:is)?\s*\**\s*([A-D])\b",
    )
)
# A letter alone, bold or bracketed too, or in front of a line: "C. because", "C) because", "C  because".
_LINE = re.compile(r"[*(\[]*([A-D])[*)\].:]*$|([A-D])(?:[.):]|\s{2})", re.IGNORECASE)


def chosen_letter(output: str) -> str | None:
    """The letter A to D that an answer settles on, or None.

    The last match of the first pattern that is found at all: a JSON block, an ``"answer"`` field, a box, "answer:",
    "the correct answer is"; else the first and then the last line if it is a letter or begins with one. These are the
    release's rules to the letter, odd ones too: "The correct answer is (C)." has none.
    """
    for pattern in _MARKED:
        if found := pattern.findall(output):
            return str(found[-1]).upper()
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in (*lines[:1], *lines[-1:]):
        if match := _LINE.match(line):
            return (match[1] or match[2]).upper()
    return None
