"""The demo in a terminal: the conversation, the tables, and what they do not show."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deltamem.demo.lessons import WINDOW
from deltamem.demo.measure import LABELS
from deltamem.demo.results import Rate, Results, Updates
from deltamem.demo.story import TOLD, Story

WIDTH = 100


def show_story(console: Console, story: Story) -> None:
    """Prints the conversation, and the answers without and with the memory."""
    headline(console, "A conversation")
    lines = [
        Text.assemble((f"{who:>6} › ", colour), text)
        for turn in TOLD
        for who, colour, text in (("you", "bold cyan", turn[0]), ("model", "dim", turn[1]))
    ]
    console.print(Panel(Group(*lines), width=72, border_style="dim", padding=(0, 1)))
    console.print(
        f"The text is dropped. What is left of it is a memory of {story}. Now a new session: an empty window, and the "
        "same frozen weights.\n",
        highlight=False,
        width=WIDTH,
    )
    table = plain_table("asked", "bare backbone", "with the memory", "")
    for reply in story.replies:
        right = reply.memory == reply.answer
        mark = Text("✓", "green") if right else Text.assemble(("✗", "red"), f" told: {reply.answer}")
        table.add_row(reply.ask, Text(reply.bare, "dim"), Text(reply.memory, "bold"), mark)
    console.print(table)


def show_results(console: Console, results: Results) -> None:
    """Prints the tables."""
    _show_recall(console, results.recall)
    _show_updates(console, results.updates)
    _show_forgetting(console, results)
    _show_cost(console, results)


def show_end(console: Console, plots: Mapping[str, Path], memory: Path, seconds: float) -> None:
    """Prints where the files lie, what to try next, and what all this does not show."""
    headline(console, "Files")
    for name, path in plots.items():
        console.print(Text(f"{name:<11} {path}"), soft_wrap=True)
    console.print(Text.assemble(f"{'memory':<11} {memory}", ("   (deltamem inspect reads it)", "dim")), soft_wrap=True)
    console.print(
        "\n[dim]What this does not show: how δ-mem does on a large model or on free text. This backbone has a million "
        "parameters and knows one small world of templated sentences. Names, and the sentences that tell a value, are "
        "held out; the kinds of facts and the values are not.[/dim]\n"
        "\nTalk to it: [bold]deltamem demo --ask[/bold]   What you can tell it: [bold]deltamem demo --facts[/bold]\n"
        f"{seconds:.0f} seconds.",
        highlight=False,
        width=WIDTH,
    )


def _show_recall(console: Console, recall: Mapping[str, Mapping[int, Rate]]) -> None:
    headline(
        console, "Recall on held-out dialogues", "percent of answers right to the letter, 95 % interval by dialogues"
    )
    facts = list(recall["full"])
    table = plain_table("facts told", *(f"{number}" for number in facts), right=len(facts))
    for method, rates in recall.items():
        table.add_row(LABELS[method], *(rate_cell(rates[number]) for number in facts), style=_style(method))
    table.add_section()
    table.add_row("questions", *(str(recall["full"][number].total) for number in facts), style="dim")
    console.print(table)


def _show_updates(console: Console, updates: Updates) -> None:
    total = next(iter(updates.new.values())).total
    headline(console, "Corrected facts", f"two of four facts corrected later, {total} questions, percent")
    table = plain_table("answer", "new value", "old value", right=2)
    for method, rate in updates.new.items():
        table.add_row(LABELS[method], rate_cell(rate), rate_cell(updates.old[method]), style=_style(method))
    console.print(table)


def _show_forgetting(console: Console, results: Results) -> None:
    curves = results.forgetting
    marks = [tokens for tokens, _ in next(iter(curves.values()))]
    total = next(iter(curves.values()))[0][1].total
    detail = f"four facts, then small talk; {total} questions, percent; full context: the last {WINDOW} tokens"
    headline(console, "Forgetting", detail)
    table = plain_table("tokens since the facts", *(f"{tokens:,}" for tokens in marks), right=len(marks))
    for method, curve in curves.items():
        table.add_row(LABELS[method], *(rate_cell(rate) for _, rate in curve), style=_style(method))
    console.print(table)


def _show_cost(console: Console, results: Results) -> None:
    cost = results.cost
    headline(console, "What it costs the backbone", "text in the window; the memory starts empty and writes along")
    table = plain_table("", "bare", "with adapter", right=2)
    bare, adapted = cost.in_context["bare"], cost.in_context["adapted"]
    table.add_row(f"answers right, percent ({bare.total} questions)", rate_cell(bare, 1), rate_cell(adapted, 1))
    table.add_row("loss a token, nats (assistant's text)", f"{cost.loss['bare']:.3f}", f"{cost.loss['adapted']:.3f}")
    console.print(table)
    sizes = ", ".join(f"{name} {size:,}" for name, size in results.bytes_per_session.items())
    console.print(f"Bytes a session: {sizes}.", highlight=False)


def headline(console: Console, title: str, detail: str = "") -> None:
    """Prints the title of a section."""
    console.print()
    console.print(Text.assemble((title, "bold"), (f"   {detail}", "dim") if detail else ""))


def plain_table(first: str, *others: str, right: int = 0) -> Table:
    """A table without lines; its last columns are flush right or all left."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right" if right else "left")
    return table


def rate_cell(rate: Rate, digits: int = 0) -> str:
    """A rate in percent, with its interval dimmed."""
    low, high = rate.interval
    span = f"{100 * low:.{digits}f}–{100 * high:.{digits}f}"
    return f"{100 * rate.value:.{digits}f} [dim]{span:>6}[/dim]"


def _style(method: str) -> str:
    return "bold" if method == "multi" else ""
