"""``deltamem ask``: one question to a memory, for scripts and pipes."""

from pathlib import Path
from typing import Annotated

import typer


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    memory: Annotated[
        Path | None, typer.Option(help="File with the memory; what standard input brings is saved to it.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="smollm2, embedded, or a Hub id, folder or GGUF file; smollm2 if it is here, else embedded."),
    ] = "",
    adapter: Annotated[
        str, typer.Option(help="Hub id or folder of an adapter for it; for a model with a name also multi or token.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Print the answer of a memory to one question, and nothing else.

    The question is not written to the memory. Text on standard input is: it is read first, as a document.

    Example: deltamem ask "Where do I live?" --memory ravi.safetensors
    Another: cat notes.txt | deltamem ask "What is the budget?" --memory notes.safetensors
    """
    import sys

    from deltamem.cli.chat import open_session

    _, session = open_session(model, adapter, memory, window=0, device=device)
    told = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    if told.strip():
        session.observe(iter([told]))
    typer.echo(session.ask(question, max_new_tokens=max_new_tokens, do_sample=False))
    if memory is not None and told.strip():
        session.save(memory)
