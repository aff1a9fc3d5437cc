"""``deltamem report``: a page about one or several evaluation runs."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of deltamem eval and of trainings.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report; by default the first run's.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Also write each table as CSV, LaTeX and Markdown.")] = False,
) -> None:
    """Write report.html and report.md: tables, verdicts, costs, curves, published numbers beside ours, examples.

    The page is one file that loads nothing.

    Example: deltamem report runs/embedded
    """
    if missing := [run for run in runs if not run.exists()]:
        raise FileNotFoundError(f"There is no run {missing[0]}.")
    from deltamem_lab.report.page import read_blocks, write_pages
    from deltamem_lab.report.tables import write_tables

    blocks, folder = read_blocks(runs), output or runs[0]
    written = [*write_pages(blocks, folder), *(write_tables(blocks, folder / "tables") if tables else ())]
    for path in written:
        print(path)
