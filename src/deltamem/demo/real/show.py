"""The real model's demo in a terminal."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deltamem.demo.real import measure as measuring
from deltamem.demo.real.answers import TURNS
from deltamem.demo.real.measure import BARE, BM25, COLUMNS, FULL, MEMORY, METHODS, STRANGER, Conversation
from deltamem.demo.real.script import ASKED
from deltamem.demo.report import WIDTH, headline, plain_table, rate_cell
from deltamem.demo.results import Rate

LABELS = {
    BARE: "no memory, no text",
    STRANGER: "another dialogue's memory",
    MEMORY: "memory alone",
    BM25: f"BM25, best {TURNS} turns",
    FULL: "full text in the window",
}
_HELD_OUT = {"known": "known values", "values": "values never trained"}


def run_real_demo(folder: Path, adapter: str = "", *, as_data: bool = False) -> dict[str, Any]:
    """Talks to SmolLM2, asks it from its memory, measures, and gives all of it as plain data.

    The report goes to standard output unless ``as_data``; progress goes to standard error.

    Args:
        folder: where the memory is saved.
        adapter: a name of one in the package, a folder or a Hub id; the main one by default.
        as_data: print nothing.

    Raises:
        OSError: the model is not there, or ``folder`` cannot be written.
        AdapterFileError: the adapter is not there.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from deltamem.models.loading import load_model, quiet_transformers

    start = time.monotonic()
    quiet_transformers()
    folder.mkdir(parents=True, exist_ok=True)
    console, progress = Console(quiet=as_data), Console(stderr=True)
    if not console.is_terminal:
        console.width = WIDTH
    with progress.status("loading SmolLM2-135M-Instruct and its memory"):
        model, tokenizer = load_model("smollm2", adapter, device="auto")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True) as bar:
        steps = measuring.CONVERSATION_STEPS + sum(measuring.recall_steps(column) for column in COLUMNS)
        task = bar.add_task("", total=steps)

        def tell(label: str) -> None:
            bar.update(task, advance=1, description=label)

        talk = measuring.converse(model, tokenizer, folder / "memory.safetensors", tell)
        show_conversation(console, talk)
        rates = [measuring.recall(model, tokenizer, column, tell) for column in COLUMNS]
    seconds = time.monotonic() - start
    show_recall(console, rates, talk.memory_bytes)
    _show_end(console, talk, seconds)
    return {
        "model": "smollm2",
        "conversation": list(talk.messages),
        "answers": [
            {"ask": ask, "value": value, **said} for (ask, value), said in zip(ASKED, talk.answers, strict=True)
        ],
        "text_bytes": talk.text_bytes,
        "memory_bytes": talk.memory_bytes,
        "recall": [
            {**asdict(column), "rates": {name: [rate.right, rate.total] for name, rate in row.items()}}
            for column, row in zip(COLUMNS, rates, strict=True)
        ],
        "seconds": round(seconds, 2),
    }


def show_conversation(console: Console, talk: Conversation) -> None:
    """Prints what was said, and every answer of every method."""
    headline(console, "A conversation", "what you say is a script; SmolLM2-135M-Instruct answers by itself")
    who = {"user": ("   you › ", "bold cyan"), "assistant": (" model › ", "dim")}
    lines = [Text.assemble(who[message["role"]], " ".join(message["content"].split())) for message in talk.messages]
    console.print(Panel(Group(*lines), width=WIDTH, border_style="dim", padding=(0, 1)))
    console.print(
        f"Only what you say is written to the memory. The text ({talk.text_bytes:,} bytes) is dropped. What is left is "
        f"a memory of {talk}: it earns its bytes over long histories, not over one this short. Now a new session: "
        "nothing but the question in the window, and the same frozen weights.\n",
        highlight=False,
        width=WIDTH,
    )
    table = plain_table("asked", "without memory", "memory alone", "BM25", "full text")
    for column in table.columns[1:]:
        column.max_width = 19
    for place, ((ask, _), said) in enumerate(zip(ASKED, talk.answers, strict=True)):
        cells = [_marked(said[method], talk.right(method)[place]) for method in (BARE, MEMORY, BM25, FULL)]
        table.add_row(ask, *cells)
    console.print(table)
    console.print(
        "[dim]All that was asked is shown, each answer the likeliest word by word; ✓ has the right word in it.[/dim]",
        highlight=False,
    )


def show_recall(console: Console, rates: list[dict[str, Rate]], memory_bytes: int) -> None:
    """Prints the table of held-out dialogues."""
    detail = "percent of answers with the right word, 95 % interval; names and wordings never trained"
    headline(console, "Recall on held-out dialogues", detail)
    heads = [f"{column.facts} told, {_HELD_OUT[column.split]}" for column in COLUMNS]
    table: Table = plain_table("", *heads, right=len(heads))
    for method in METHODS:
        cells = [rate_cell(row[method]) for row in rates]
        table.add_row(LABELS[method], *cells, style="bold" if method == MEMORY else "")
    table.add_section()
    table.add_row("questions", *(str(row[MEMORY].total) for row in rates), style="dim")
    console.print(table)
    console.print(
        f"[dim]A session's memory is {memory_bytes:,} bytes. These are few questions; docs/real-model.md has the full "
        "tables with their controls.[/dim]",
        highlight=False,
        width=WIDTH,
    )


def _show_end(console: Console, talk: Conversation, seconds: float) -> None:
    console.print(
        f"\nThe memory: {talk.file}   [dim](deltamem inspect reads it)[/dim]\n"
        "Talk to it: [bold]deltamem chat --memory me.safetensors --no-write-replies[/bold]\n"
        "Serve it: [bold]deltamem serve[/bold]   The toy: [bold]deltamem demo --embedded[/bold]\n"
        f"{seconds:.0f} seconds.",
        highlight=False,
        soft_wrap=True,
    )


def _marked(said: str, right: bool) -> Text:
    shown = " ".join(said.split())
    return Text.assemble(("✓ " if right else "✗ ", "green" if right else "red"), shown)
