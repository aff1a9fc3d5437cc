"""A report as an HTML page with everything in it, and as Markdown. All text of models and data is escaped."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from deltamem.eval.records import Record, read_run
from deltamem.eval.report.blocks import Block, Chart, Example, Heading, Paragraph, Table
from deltamem.eval.report.contents import contents
from deltamem.files import write_atomically

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 3rem; border-bottom: 1px solid #ddd; } h3 { margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #eee; text-align: right; vertical-align: top; }
th { border-bottom: 1px solid #999; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td.words { text-align: left; } tr.control td { color: #777; } tbody tr:hover { background: #f6f9fc; }
.better { color: #00664b; } .worse { color: #a33; } .open { color: #777; }
figure { margin: 1.5rem 0; } figcaption { color: #555; font-size: 13px; max-width: 760px; } svg { max-width: 100%; }
.example { border: 1px solid #ddd; border-radius: 6px; padding: .6rem 1rem; margin: .8rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .4rem 0; }
dt { color: #777; } dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f7f7f7; padding: .6rem; font-size: 12px; }
"""
_NUMBER = re.compile(r"[-+]?[\d.,]+( \[.*)?( \| [\d.]+)?|–")
_MARKDOWN = re.compile(r"([\\`*_<>#|~]|(?<=\])[(:])")
_VERDICTS = {"better": "better", "worse": "worse", "cannot tell": "open"}


def write_report(runs: Sequence[Path], output: Path) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` about one or several runs and says where they lie.

    Args:
        runs: folders with records.
        output: the folder to write to.

    Raises:
        OSError: a run is not there, or the folder cannot be written.
        ValueError: a record is damaged, two runs answer the same question by the same method, or there are none.
    """
    found: dict[object, Record] = {}
    for run in runs:
        for record in read_run(run):
            if found.setdefault(record.key, record) != record:
                raise ValueError(
                    f"{run} answers what another run answers by the same method ({record.task}, {record.method}); "
                    "report the runs one by one."
                )
    blocks = contents(list(found.values()))
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
            return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        case Example(title, facts, prompt):
            listed = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts)
            return (
                f'<div class="example"><strong>{escape(title)}</strong><dl>{listed}</dl>'
                f"<details><summary>the prompt</summary><pre>{escape(prompt)}</pre></details></div>"
            )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    rows = "\n".join(_html_row(row, marked=number in table.marked) for number, row in enumerate(table.rows))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'


def _html_row(row: Sequence[str], *, marked: bool) -> str:
    kind = ' class="control"' if marked else ""
    return f"<tr{kind}>{''.join(_html_cell(cell) for cell in row)}</tr>"


def _html_cell(text: str) -> str:
    for words, kind in _VERDICTS.items():
        if text.endswith(f"] {words}"):
            numbers = escape(text.removesuffix(words))
            return f'<td>{numbers}<span class="{kind}">{words}</span></td>'
    return f"<td>{escape(text)}</td>" if _NUMBER.fullmatch(text) else f'<td class="words">{escape(text)}</td>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Table(head, rows, _):
            lines = [head, ["---"] + ["---:"] * (len(head) - 1), *([_plain(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Chart():
            return ""
        case Example(title, facts, _):
            return "\n".join(
                [f"**{_plain(title)}**", "", *(f"- {_plain(label)}: {_plain(text)}" for label, text in facts)]
            )


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
