"""``deltamem chat``: talk to a backbone whose memory lives in a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem.cli.models import Adapter, ChatTemplate, Device, Model, choose_model, open_model

if TYPE_CHECKING:
    from deltamem.session import Session


def chat(
    model: Model = "",
    adapter: Adapter = "",
    memory: Annotated[
        Path | None,
        typer.Option(help="File that keeps the memory, saved at every change; created if it does not exist."),
    ] = None,
    window: Annotated[
        int, typer.Option(min=0, help="Past messages that stay visible; 0 answers from memory alone.")
    ] = 8,
    write_replies: Annotated[
        bool, typer.Option(help="Whether the model's replies are written to memory too; a small model errs in them.")
    ] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
    system: Annotated[str, typer.Option(help="A system message: always visible, never written to memory.")] = "",
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 always takes the likeliest word; by default the model's own setting.")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="Precision of its weights: auto, bfloat16, float16, float32.")] = "auto",
    history: Annotated[
        Path | None,
        typer.Option(help="File that keeps your lines for the arrow keys; without it they last as long as the chat."),
    ] = None,
    chat_template: ChatTemplate = None,
) -> None:
    """Talk to a model that remembers across runs.

    Example: deltamem chat --memory ravi.safetensors. Tell it something, leave, start it again: the text is gone, the
    memory answers. deltamem pull smollm2 fetches a real chat model. Without one you talk to the embedded toy, which
    knows only its own small world and says at the start what you can tell it. Your own model: docs/own-model.md.
    """
    import sys

    from rich.console import Console

    from deltamem.cli.terminal.chat import Chat
    from deltamem.cli.terminal.lines import PlainLines, terminal_lines

    console = Console()
    with console.status("loading"):
        name, session = open_session(
            model,
            adapter,
            memory,
            window=window,
            write_replies=write_replies,
            system=system,
            device=device,
            dtype=dtype,
            chat_template=chat_template,
        )
    talk = Chat(session, console, memory, _options(max_new_tokens, temperature))
    interactive = sys.stdin.isatty() and console.is_terminal
    talk.welcome(name)
    talk.run((terminal_lines(console, talk.completions, history) if interactive else None) or PlainLines(console))


def _options(max_new_tokens: int, temperature: float | None) -> dict[str, Any]:
    """For ``generate``. A temperature of 0 is greedy."""
    if temperature is None:
        return {"max_new_tokens": max_new_tokens}
    sampled = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    return {"max_new_tokens": max_new_tokens, **sampled}


def open_session(
    model: str,
    adapter: str,
    memory: Path | None,
    *,
    window: int,
    write_replies: bool = True,
    system: str = "",
    device: str = "auto",
    dtype: str = "auto",
    chat_template: Path | None = None,
) -> tuple[str, "Session"]:
    """The name of a model, and a session of it that continues from a memory's file if there is one."""
    choose_model(model, adapter)  # what is not there is said before anything heavy is imported
    from deltamem.models.loading import quiet_transformers
    from deltamem.session.session import ROLES, Session

    quiet_transformers()
    name, backbone, tokenizer = open_model(model, adapter, device, dtype, chat_template)
    roles = [role for role in ROLES if write_replies or role != "assistant"]
    if memory is not None and memory.exists():
        return name, Session.load(memory, backbone, tokenizer, window=window, roles=roles, system=system)
    return name, Session(backbone, tokenizer, window=window, roles=roles, system=system)
