"""``deltamem report``: a page about one or several evaluation runs."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of deltamem eval, and of trainings.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report; the first run's by default.")] = None,
) -> None:
    """Write report.html and report.md: tables, verdicts, costs, curves, published numbers beside ours, examples.

    The page is one file that loads nothing.

    Example: deltamem report runs/embedded
    """
    from deltamem_lab.report import write_report

    for path in write_report(runs, output or runs[0]):
        print(path)
