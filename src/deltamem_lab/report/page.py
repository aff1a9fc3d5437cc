"""A report as an HTML page with everything in it, and as Markdown. All text of models and data is escaped."""

import re
from collections.abc import Sequence
from pathlib import Path

from deltamem.extensions import from_extra
from deltamem.files import write_atomically
from deltamem_lab.notes import join_notes, read_notes
from deltamem_lab.records import TRAINED, read_runs
from deltamem_lab.report.blocks import Block, Chart, Example, Heading, Paragraph, Table
from deltamem_lab.report.contents import contents
from deltamem_lab.report.learning import is_training, read_training

_NUMBER = re.compile(r"([-+]?[\d.,]+|–)( \| [\d.]+| of \d items)?")
INTERVAL = re.compile(r"([-+]?[\d.]+) (\[[-+\d., ]+\])(?: (better|worse|cannot tell))?")
_MARKDOWN = re.compile(r"([\\`*_<>#|~]|(?<=\])[(:])")
_NUMBERS, _WORDS = "---:", "---"
_VERDICTS = {"better": "better", "worse": "worse", "cannot tell": "open"}


def read_blocks(runs: Sequence[Path]) -> list[Block]:
    """What a report about one or several runs says.

    Args:
        runs: folders with records, and of trainings; those under a run's ``trained`` come with it.

    Raises:
        OSError: a run is not there.
        ValueError: a record or a log is damaged, two runs answer the same question by the same method, or there is
            nothing.
    """
    trainings = [folder for run in runs for folder in (run, *sorted((run / TRAINED).glob("*"))) if is_training(folder)]
    evaluated = [run for run in runs if run not in trainings]
    absent = join_notes(map(read_notes, evaluated)).absent
    return contents(read_runs(evaluated), absent, [read_training(folder) for folder in trainings])


def write_report(runs: Sequence[Path], output: Path) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` about one or several runs and says where they lie.

    Raises:
        OSError: a run is not there, or the folder cannot be written.
        ValueError: as :func:`read_blocks`.
    """
    return write_pages(read_blocks(runs), output)


def write_pages(blocks: Sequence[Block], output: Path) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` to a folder and says where they lie.

    Raises:
        OSError: the folder cannot be written.
    """
    pages = output / "report.html", output / "report.md"
    for path, text in zip(pages, (to_html(blocks), to_markdown(blocks)), strict=True):
        write_atomically(path, text.encode("utf-8", "replace"))
    return pages


def to_html(blocks: Sequence[Block]) -> str:
    """A page without scripts and without anything to load.

    Raises:
        ImportError: jinja2 is not installed; the message names the extra.
    """
    with from_extra("eval", "Reports need jinja2"):
        from jinja2 import Environment, PackageLoader
    pages = Environment(loader=PackageLoader("deltamem_lab", "report"), autoescape=True, trim_blocks=True)
    columns = {
        id(block): list(map(_alignment, zip(block.head, *block.rows, strict=True)))
        for block in blocks
        if isinstance(block, Table)
    }
    return pages.get_template("page.html").render(
        blocks=blocks,
        kind=lambda block: type(block).__name__,
        words=lambda table, column: columns[id(table)][column] == _WORDS,
        interval=INTERVAL.fullmatch,
        number=_NUMBER.fullmatch,
        verdicts=_VERDICTS,
    )


def to_markdown(blocks: Sequence[Block]) -> str:
    """The same without the drawings, whose numbers stand in the tables."""
    return "\n\n".join(text for block in blocks if (text := _markdown(block))) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Table(head, rows, _):
            lines = [
                head,
                map(_alignment, zip(head, *rows, strict=True)),
                *([_plain(cell) for cell in row] for row in rows),
            ]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Chart():
            return ""
        case Example(title, facts, _):
            return "\n".join(
                [f"**{_plain(title)}**", "", *(f"- {_plain(label)}: {_plain(text)}" for label, text in facts)]
            )


def _alignment(column: Sequence[str]) -> str:
    """Below a heading numbers stand on the right, words on the left."""
    return _NUMBERS if is_numbers(column) else _WORDS


def is_numbers(column: Sequence[str]) -> bool:
    """Whether all cells below a column's heading are numbers, or missing."""
    return all(cell[:1] in "–±+-0123456789" for cell in column[1:])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
