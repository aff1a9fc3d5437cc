"""Cutting a long context into pieces that together are the whole of it."""

import re
from collections.abc import Sequence

from deltamem_lab.interface import Entry, bare_text

# Best first: between paragraphs, lines, sentences, words.
_BREAKS = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"(?<=[.!?])\s+", r"\s+"))


def chunks_of(text: str, size: int) -> list[str]:
    """Pieces of at most ``size`` characters, cut at the best place there is in the last half of each.

    Joined, the pieces are the text again.

    Raises:
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"A piece has at least one character, not {size}.")
    pieces = []
    while len(text) > size:
        end = _cut(text, size)
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text] if text else pieces


def joined(history: Sequence[Entry]) -> str:
    """The pieces as one text again; excerpts that do not end in white space are kept apart by a new line."""
    parts = [bare_text(entry) for entry in history]
    separated = [part if part[-1:].isspace() else f"{part}\n" for part in parts if part]
    return "".join(separated).strip()


def _cut(text: str, size: int) -> int:
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, size // 2, size)]
        if ends:
            return ends[-1]
    return size
