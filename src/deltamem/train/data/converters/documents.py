"""Plain documents: the earlier paragraphs are remembered, and the next one is predicted."""

import re
from collections.abc import Iterator

from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need

_BREAK = re.compile(r"\n\s*\n")
# Shorter ones, such as headings, are read together with what follows.
_SHORTEST = 80


def documents(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line for every ``style.paragraphs`` paragraphs of a document, of which the last is the target.

    A shorter rest of two paragraphs or more is a line too, so each paragraph is in one line.
    """
    paragraphs = split_paragraphs(need(row, "text", str))
    if len(paragraphs) < 2:
        yield Skipped("fewer than two paragraphs")
        return
    for start in range(0, len(paragraphs) - 1, style.paragraphs):
        part = paragraphs[start : start + style.paragraphs]
        yield example(f"{row.get('id', '')}/{start}", part[:-1], "", part[-1], style)


def split_paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, which blank lines set apart; short ones are joined to the next."""
    result: list[str] = []
    held = ""
    for piece in _BREAK.split(text.replace("\r\n", "\n")):
        held = f"{held}\n\n{piece.strip()}".strip()
        if len(held) >= _SHORTEST:
            result.append(held)
            held = ""
    if held and result:
        result[-1] += f"\n\n{held}"
    return result or ([held] if held else [])
