"""Reports of runs: in the terminal, as Markdown, and as an HTML page that needs nothing beside it."""

from deltamem_lab.report.page import write_report

__all__ = ["write_report"]
