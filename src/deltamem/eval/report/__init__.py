"""Reports of runs: in the terminal, as Markdown, and as an HTML page that needs nothing beside it."""

from deltamem.eval.report.page import write_report

__all__ = ["write_report"]
