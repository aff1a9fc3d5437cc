"""The tables of a report as files of their own: CSV for programs, LaTeX for papers, Markdown for texts."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from deltamem.files import write_atomically
from deltamem_lab.report.blocks import Block, Heading, Table
from deltamem_lab.report.page import INTERVAL, is_numbers, to_markdown

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "±": r"$\pm$",
        "δ": r"$\delta$",
        "|": r"\textbar{}",
        "“": "``",
        "”": "''",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def write_tables(blocks: Sequence[Block], folder: Path) -> list[Path]:
    """Writes every table three times, named by its headings, and says where the files lie.

    Raises:
        OSError: the folder cannot be written.
    """
    written = []
    for name, table in _named(blocks):
        for suffix, text in ((".csv", to_csv(table)), (".tex", to_latex(table)), (".md", to_markdown([table]))):
            path = folder / f"{name}{suffix}"
            write_atomically(path, text.encode())
            written.append(path)
    return written


def to_csv(table: Table) -> str:
    """Comma-separated values; a column of values with intervals becomes one of values, of both ends and of verdicts."""
    columns = [
        part
        for head, *cells in zip(table.head, *table.rows, strict=True)
        for part in (_parted(head, cells) if any(map(INTERVAL.fullmatch, cells)) else [(head, *cells)])
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def to_latex(table: Table) -> str:
    """A ``tabular`` with the rules of booktabs; numbers stand on the right."""
    aligned = "".join("r" if is_numbers(column) else "l" for column in zip(table.head, *table.rows, strict=True))
    lines = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in (table.head, *table.rows)]
    body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    return f"\\begin{{tabular}}{{{aligned}}}\n{body}\n\\end{{tabular}}\n"


def _named(blocks: Sequence[Block]) -> Iterator[tuple[str, Table]]:
    """Each table and a name for it, made of the headings that it stands under."""
    headings: dict[int, str] = {}
    used = Counter[str]()
    for block in blocks:
        if isinstance(block, Heading):
            headings = {level: text for level, text in headings.items() if level < block.level}
            headings[block.level] = block.text
        elif isinstance(block, Table):
            parts = [text for level, text in headings.items() if level > 1] or ["table"]
            name = re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")
            used[name] += 1
            yield name if used[name] == 1 else f"{name}-{used[name]}", block


def _parted(head: str, cells: Sequence[str]) -> list[tuple[str, ...]]:
    rows = []
    for cell in cells:
        found = INTERVAL.fullmatch(cell)
        value, interval, words = found.groups() if found else ("" if cell == "–" else cell, None, None)
        low, high = interval.strip("[]").split(", ") if interval else ("", "")
        rows.append((value, low, high, words or ""))
    names = (head, f"{head}, low", f"{head}, high", f"{head}, verdict")
    columns = [(name, *column) for name, column in zip(names, zip(*rows, strict=True), strict=True)]
    return [column for column in columns if any(column[1:]) or column[0] == head]
