"""``deltamem chat``: talk to a backbone whose memory lives in a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deltamem.session import Session


def chat(
    model: Annotated[
        str, typer.Option(help="Hub id or folder of a causal language model; the embedded one if left out.")
    ] = "",
    adapter: Annotated[str, typer.Option(help="Hub id or folder of an adapter for it.")] = "",
    memory: Annotated[
        Path | None, typer.Option(help="File to keep the memory in, saved at every change; made if it does not exist.")
    ] = None,
    window: Annotated[
        int, typer.Option(min=0, help="Past messages that stay visible; 0 answers from memory alone.")
    ] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
    history: Annotated[
        Path | None,
        typer.Option(help="File to keep typed lines in for the arrow keys; else they last as long as this."),
    ] = None,
) -> None:
    """Talk to a model that remembers across runs.

    Example: deltamem chat --memory ravi.safetensors. Tell it something, leave, start it again: the
    text is gone, the memory answers. With no --model it is the small embedded backbone, which knows only its
    own small world and says at the start what one can tell it.
    """
    import sys

    from rich.console import Console

    from deltamem.cli.terminal.chat import Chat
    from deltamem.cli.terminal.lines import PlainLines, terminal_lines

    console = Console()
    with console.status("loading"):
        session = _open(model, adapter, memory, window)
    talk = Chat(session, console, memory, max_new_tokens)
    interactive = sys.stdin.isatty() and console.is_terminal
    talk.welcome(embedded=not model)
    talk.run((terminal_lines(console, talk.completions, history) if interactive else None) or PlainLines(console))


def _open(model: str, adapter: str, memory: Path | None, window: int) -> "Session":
    from transformers.utils import logging

    from deltamem.cli.models import load_adapted
    from deltamem.session import Session

    logging.set_verbosity_error()
    if not model:
        logging.disable_progress_bar()
    backbone, tokenizer = load_adapted(model, adapter)
    if memory is not None and memory.exists():
        return Session.load(memory, backbone, tokenizer, window=window)
    return Session(backbone, tokenizer, window=window)
