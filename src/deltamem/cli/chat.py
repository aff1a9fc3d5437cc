"""``deltamem chat``: talk to a backbone whose memory lives in a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from deltamem.session import Session

_HELP = """\
/memory   how large the memory is and what the last turn changed
/forget   drop the visible text; only the memory remains
/save     write the memory to its file now
/quit     save and leave (so does Ctrl-D)"""


def chat(
    model: Annotated[
        str, typer.Option(help="Hub id or folder of a causal language model; the embedded one if left out.")
    ] = "",
    adapter: Annotated[str, typer.Option(help="Hub id or folder of an adapter for it.")] = "",
    memory: Annotated[Path | None, typer.Option(help="File to keep the memory in; made if it does not exist.")] = None,
    window: Annotated[
        int, typer.Option(min=0, help="Past messages that stay visible; 0 answers from memory alone.")
    ] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
) -> None:
    """Talk to a model that remembers across runs.

    Example: deltamem chat --memory ravi.safetensors. Tell it something, leave, start it again: the
    text is gone, the memory answers. With no --model it is the small embedded backbone, which knows only its
    own small world (deltamem demo --facts shows what one can tell it).
    """
    from rich.console import Console

    console = Console()
    session = _open(model, adapter, memory, window)
    console.print(f"[dim]{_HELP}[/dim]", highlight=False)
    before = session.state
    while True:
        try:
            said = console.input("[bold]you[/bold] › ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            break
        if said == "/quit":
            break
        if said == "/memory":
            change = float(session.state.diff(before).norm())
            console.print(
                f"{session.state.nbytes:,} bytes, {int(session.state.tokens[0]):,} tokens written, "
                f"norm {float(session.state.norms().norm()):.2f}, last turn changed it by {change:.2f}"
            )
        elif said == "/forget":
            session.clear_context()
            console.print("[dim]The visible text is gone; the memory stays.[/dim]")
        elif said == "/save":
            _save(console, session, memory)
        elif said.startswith("/"):
            console.print(_HELP, highlight=False)
        elif said:
            before = session.state
            console.print("[bold]model[/bold] › ", end="")
            for piece in session.stream(said, max_new_tokens=max_new_tokens):
                console.print(piece, end="", markup=False, highlight=False)
            console.print()
    if memory is not None:
        _save(console, session, memory)


def _open(model: str, adapter: str, memory: Path | None, window: int) -> "Session":
    from deltamem.session import Session

    if bool(model) != bool(adapter):
        raise ValueError("--model and --adapter go together; give both, or neither for the embedded ones.")
    if model:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from deltamem.adapters import load_adapter

        backbone = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        tokenizer = AutoTokenizer.from_pretrained(model)
        load_adapter(backbone, adapter)
    else:
        from deltamem.demo.adapters import load_demo_adapter
        from deltamem.demo.backbone import load_backbone

        backbone, tokenizer = load_backbone()
        load_demo_adapter(backbone, "multi")
    if memory is not None and memory.exists():
        return Session.load(memory, backbone, tokenizer, window=window)
    return Session(backbone, tokenizer, window=window)


def _save(console: "Console", session: "Session", memory: Path | None) -> None:
    if memory is None:
        console.print("[dim]Nothing saved: start with --memory FILE to keep the memory.[/dim]")
        return
    session.save(memory)
    console.print(f"[dim]Memory saved to {memory} ({memory.stat().st_size:,} bytes).[/dim]")
