"""A report as an HTML page with everything in it, and as Markdown. All text of models and data is escaped."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from deltamem.files import write_atomically
from deltamem_lab.notes import join_notes, read_notes
from deltamem_lab.records import TRAINED, read_runs
from deltamem_lab.report.blocks import Block, Chart, Example, Heading, Paragraph, Table
from deltamem_lab.report.contents import contents
from deltamem_lab.report.learning import is_training, read_training

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --quiet: #666; --grid: #e4e4e4; --rule: #999;
  --shade: #f6f7f9; --main: #0072b2; --muted: #b0b0b0; --series-1: #cc79a7; --series-2: #e69f00; --series-3: #009e73;
  --better: #00664b; --worse: #a33; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e4e4e4; --quiet: #a0a0a0; --grid: #33363a;
  --rule: #777; --shade: #1f2226; --main: #56b4e9; --muted: #6a6e73; --series-1: #e29cc2; --series-2: #f0b84a;
  --series-3: #3fc79a; --better: #4cc79d; --worse: #f08a8a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
p { overflow-wrap: anywhere; max-width: 50rem; } h1 { font-size: 1.6rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--grid); } h3 { margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--grid); text-align: right; vertical-align: top; }
td:first-child { position: sticky; left: 0; background: var(--paper); } td:first-child, .whole { white-space: nowrap; }
.words { text-align: left; } .better, .worse, .open { display: block; }
td.words:not(:first-child) { min-width: 7rem; }
th { border-bottom: 1px solid var(--rule); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr.control td { color: var(--quiet); } tbody tr:hover { background: var(--shade); }
.better { color: var(--better); } .worse { color: var(--worse); } .open { color: var(--quiet); }
figure { margin: 1.5rem 0; } figcaption { color: var(--quiet); font-size: 13px; max-width: 760px; }
svg { max-width: 100%; min-width: 640px; height: auto; }
.example { border: 1px solid var(--grid); border-radius: 6px; padding: .6rem 1rem; margin: .8rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .4rem 0; }
dt { color: var(--quiet); } dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--shade); padding: .6rem; font-size: 12px; }
"""
_NUMBER = re.compile(r"([-+]?[\d.,]+|–)( \| [\d.]+| of \d items)?")
_INTERVAL = re.compile(r"([-+]?[\d.]+) (\[[-+\d., ]+\])(?: (better|worse|cannot tell))?")
_MARKDOWN = re.compile(r"([\\`*_<>#|~]|(?<=\])[(:])")
_NUMBERS, _WORDS = "---:", "---"
_VERDICTS = {"better": "better", "worse": "worse", "cannot tell": "open"}


def write_report(runs: Sequence[Path], output: Path) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` about one or several runs and says where they lie.

    Args:
        runs: folders with records, and of trainings; those under a run's ``trained`` come with it.
        output: the folder to write to.

    Raises:
        OSError: a run is not there, or the folder cannot be written.
        ValueError: a record or a log is damaged, two runs answer the same question by the same method, or there is
            nothing.
    """
    trainings = [folder for run in runs for folder in (run, *sorted((run / TRAINED).glob("*"))) if is_training(folder)]
    evaluated = [run for run in runs if run not in trainings]
    absent = join_notes(map(read_notes, evaluated)).absent
    blocks = contents(read_runs(evaluated), absent, [read_training(folder) for folder in trainings])
    pages = output / "report.html", output / "report.md"
    for path, text in zip(pages, (to_html(blocks), to_markdown(blocks)), strict=True):
        write_atomically(path, text.encode("utf-8", "replace"))
    return pages


def to_html(blocks: Sequence[Block]) -> str:
    """A page without scripts and without anything to load."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def to_markdown(blocks: Sequence[Block]) -> str:
    """The same without the drawings, whose numbers stand in the tables."""
    return "\n\n".join(text for block in blocks if (text := _markdown(block))) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Table():
            return _html_table(block)
        case Chart(svg, caption):
            return f'<figure><div class="wide">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'
        case Example(title, facts, folds):
            listed = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts)
            folded = "".join(
                f"<details><summary>{escape(label)}</summary><pre>{escape(text)}</pre></details>"
                for label, text in folds
            )
            return f'<div class="example"><strong>{escape(title)}</strong><dl>{listed}</dl>{folded}</div>'


def _html_table(table: Table) -> str:
    kinds = (
        ' class="words"' if _alignment(column) == _WORDS else "" for column in zip(table.head, *table.rows, strict=True)
    )
    head = "".join(f"<th{kind}>{escape(text)}</th>" for text, kind in zip(table.head, kinds, strict=True))
    rows = "\n".join(_html_row(row, marked=number in table.marked) for number, row in enumerate(table.rows))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'


def _html_row(row: Sequence[str], *, marked: bool) -> str:
    kind = ' class="control"' if marked else ""
    return f"<tr{kind}>{''.join(_html_cell(cell) for cell in row)}</tr>"


def _html_cell(text: str) -> str:
    if found := _INTERVAL.fullmatch(text):
        value, interval, words = found.groups()
        judged = f'<span class="{_VERDICTS[words]}">{words}</span>' if words else ""
        return f'<td>{value} <span class="whole">{interval}</span>{judged}</td>'
    if _NUMBER.fullmatch(text):
        return f'<td class="whole">{text}</td>'
    return f'<td class="words">{escape(text)}</td>'


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
    return _NUMBERS if all(cell[:1] in "–±+-0123456789" for cell in column[1:]) else _WORDS


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
