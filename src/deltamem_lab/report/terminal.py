"""Summaries and plans in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from deltamem.demo.report import plain_table
from deltamem.wording import counted
from deltamem_lab.dryrun import Estimate
from deltamem_lab.methods import is_control
from deltamem_lab.report.contents import percent, questions, verdict
from deltamem_lab.summary import TaskSummary

_WIDTH = 160


def print_summary(tasks: Sequence[TaskSummary]) -> None:
    """Prints a table a task: means, differences with verdicts, and what needs memory."""
    console = _console()
    for task in tasks:
        console.print(
            f"\n[bold]{task.task}[/bold], protocol {task.protocol}: {counted(task.items, 'item')}, "
            f"{counted(task.questions, 'question')}; {task.metric} in percent with 95 % intervals",
            highlight=False,
        )
        needs = ["needs memory"] if task.known is not None else []
        heads = ["questions", "mean", *(f"against {name}" for name in task.references), *needs]
        table = plain_table("method", *heads, right=len(heads))
        for method in task.methods:
            cells = [questions(method), percent(method.mean)]
            cells += [verdict(method.differences.get(name)) for name in task.references]
            if needs:
                cells.append("–" if method.unknown is None else percent(method.unknown))
            style = "dim" if is_control(method.method) else ""
            table.add_row(method.method, *(Text(cell) for cell in cells), style=style)
        console.print(table)


def print_estimates(rows: Sequence[Estimate]) -> None:
    """Prints what would run."""
    heads = ("items", "questions", "tokens written", "tokens of prompts", "new tokens, at most")
    table = plain_table("task", *heads, right=len(heads))
    for row in rows:
        counts = (row.items, row.questions, row.write_tokens, row.prompt_tokens, row.new_tokens)
        mark = " *" if row.published else ""
        table.add_row(f"{row.task}, {row.protocol}, {row.method}{mark}", *(f"{count:,}" for count in counts))
    console = _console()
    console.print(table)
    if any(row.published for row in rows):
        console.print("* Its data is not here: about, by its published size.", highlight=False)
    total = sum(row.write_tokens + row.prompt_tokens for row in rows)
    console.print(
        f"About {total:,} tokens to read in all, before what is saved where prompts begin alike.", highlight=False
    )


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    return console
