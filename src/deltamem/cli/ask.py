"""``deltamem ask``: one question to a memory, for scripts and pipes."""

from pathlib import Path
from typing import Annotated

import typer

from deltamem.cli.models import Adapter, ChatTemplate, Device, Model


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    memory: Annotated[
        Path | None, typer.Option(help="File with the memory; text from standard input is saved to it.")
    ] = None,
    model: Model = "",
    adapter: Adapter = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    device: Device = "auto",
    chat_template: ChatTemplate = None,
) -> None:
    """Print the answer of a memory to one question, and nothing else.

    The question is not written to the memory. Text on standard input is: it is read first, as a document.

    Example: deltamem ask "Where do I live?" --memory ravi.safetensors
    Another: cat notes.txt | deltamem ask "What is the budget?" --memory notes.safetensors
    """
    import sys

    from deltamem.cli.chat import open_session

    told = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    if memory is not None and not memory.exists() and not told.strip():
        raise FileNotFoundError(
            f"There is no memory {memory}. Pipe in a text to make one, or talk: deltamem chat --memory"
        )
    _, session = open_session(model, adapter, memory, window=0, device=device, chat_template=chat_template)
    if told.strip():
        session.observe(iter([told]))
    typer.echo(session.ask(question, max_new_tokens=max_new_tokens, do_sample=False))
    if memory is not None and told.strip():
        session.save(memory)
