"""The chat's commands: a table of names, what they take, what they do and what they show of a memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltamem.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from deltamem.cli.terminal.chat import Chat
    from deltamem.session import Session

_BAR = 28


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        run: does it, given the chat and what was typed after the name.
        takes: how what it takes is written.
        what: one line about it.
    """

    run: Callable[["Chat", str], None]
    takes: str
    what: str


def help_text() -> str:
    """One line a command."""
    usages = [f"/{name} {command.takes}".strip() for name, command in COMMANDS.items()]
    width = max(map(len, usages))
    lines = [f"{usage:{width}}   {command.what}" for usage, command in zip(usages, COMMANDS.values(), strict=True)]
    return "\n".join([*lines, "A line that ends in \\ continues on the next; Alt+Enter also begins a new line."])


def _memory(chat: "Chat", _: str) -> None:
    chat.console.print(memory_lines(chat.session), highlight=False)
    chat.console.print(memory_bars(chat.session))


def _context(chat: "Chat", wanted: str) -> None:
    if wanted not in ("on", "off"):
        raise ValueError("/context takes on or off.")
    chat.session.window = chat.window if wanted == "on" else 0
    if wanted == "off":
        chat.session.clear_context()
        chat.note("The visible text is gone; only the memory answers.")
    else:
        chat.note(f"From now on the last {counted(chat.window, 'message')} stay visible.")


def _compare(chat: "Chat", question: str) -> None:
    if not question:
        raise ValueError("/compare takes a question.")
    answers = [chat.session.ask(question, memory=memory, **chat.options) for memory in (True, False)]
    chat.console.print(side_by_side(*answers))
    if chat.session.visible:
        chat.note("Both see the visible text; /context off leaves the memory alone.")


def _read(chat: "Chat", path: str) -> None:
    if not path:
        raise ValueError("/read takes a text file.")
    with Path(path).expanduser().open(encoding="utf-8") as file:
        turn = chat.session.observe(iter(lambda: file.read(4096), ""))
    chat.note(f"Wrote {counted(turn.written_tokens, 'token')} in {turn.seconds:.1f} s.")


def _fork(chat: "Chat", name: str) -> None:
    if not name or name in chat.branches:
        raise ValueError(f"/fork takes a new name; there are: {', '.join(chat.branches)}.")
    chat.branches[name] = chat.session.fork()
    chat.note(f"{name} continues from here; /switch {chat.branch} goes back.")
    chat.branch = name


def _switch(chat: "Chat", name: str) -> None:
    if name not in chat.branches:
        raise ValueError(f"/switch takes one of: {', '.join(chat.branches)}.")
    chat.branch = name


def _rollback(chat: "Chat", turns: str) -> None:
    if turns and not turns.isdecimal():
        raise ValueError("/rollback takes a number of turns.")
    chat.session.rollback(int(turns or 1))
    chat.note(f"Taken back; {counted(len(chat.session.visible), 'message')} visible.")


def _freeze(chat: "Chat", _: str) -> None:
    chat.session.freeze()
    chat.note("The memory is read and no longer written.")


def _unfreeze(chat: "Chat", _: str) -> None:
    chat.session.unfreeze()
    chat.note("The memory is written again.")


def _forget(chat: "Chat", _: str) -> None:
    chat.session.forget()
    chat.note("The memory is empty, and nothing is visible.")


def _save(chat: "Chat", path: str) -> None:
    target = Path(path).expanduser() if path else chat.memory
    if target is not None and not target.parent.is_dir():
        raise ValueError(f"There is no folder {target.parent}: make it first, or name another. Nothing saved.")
    if target is None:
        raise ValueError("/save takes a file, because the chat was started without --memory. Nothing saved.")
    chat.save(target)


def _load(chat: "Chat", path: str) -> None:
    if not path:
        raise ValueError("/load takes a file.")
    chat.session.restore(Path(path).expanduser())
    chat.note(f"{int(chat.session.state.tokens[0]):,} tokens are in this memory; nothing is visible.")


def _help(chat: "Chat", _: str) -> None:
    chat.note(help_text())


def _quit(chat: "Chat", _: str) -> None:
    raise EOFError


COMMANDS = {
    "memory": Command(_memory, "", "what it holds, and what the last turn changed"),
    "context": Command(_context, "on|off", "off: drop the visible text, answer from memory"),
    "compare": Command(_compare, "QUESTION", "an answer with and without memory, unwritten"),
    "read": Command(_read, "FILE", "write a text file to memory"),
    "fork": Command(_fork, "NAME", "go on in a copy of this conversation"),
    "switch": Command(_switch, "NAME", "go to another copy"),
    "rollback": Command(_rollback, "[N]", "take back the last turn, or the last N"),
    "freeze": Command(_freeze, "", "read the memory, write nothing"),
    "unfreeze": Command(_unfreeze, "", "write again"),
    "forget": Command(_forget, "", "empty the memory for good"),
    "save": Command(_save, "[FILE]", "save the memory"),
    "load": Command(_load, "FILE", "continue from a saved memory"),
    "help": Command(_help, "", "these lines"),
    "quit": Command(_quit, "", "leave"),
}


def memory_lines(session: "Session") -> str:
    """How large the memory is and what the last turn did to it, in words."""
    state, turn = session.state, session.last_turn
    held = f"{state.nbytes:,} bytes, {int(state.tokens[0]):,} tokens written, norm {float(state.norms().norm()):.2f}"
    if turn is None:
        return held + "; no turn yet"
    return (
        f"{held}; the last turn wrote {turn.written_tokens:,} tokens and changed it by {float(turn.change.norm()):.2f}"
    )


def memory_bars(session: "Session") -> "RenderableType":
    """For each adapted layer how much the last turn changed its states, beside how large they are."""
    from rich.bar import Bar
    from rich.table import Table

    from deltamem.attach import attached

    sizes = session.state.norms()[:, 0].norm(dim=-1).tolist()
    turn = session.last_turn
    changes = [0.0] * len(sizes) if turn is None else turn.change.norm(dim=-1).tolist()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in ("layer", "changed by", "", "norm"):
        table.add_column(heading, justify="left" if not heading else "right")
    full = max(*changes, 1e-9)
    for number, change, size in zip(attached(session.model).layer_numbers(), changes, sizes, strict=True):
        table.add_row(str(number), f"{change:.3f}", Bar(full, 0, change, width=_BAR), f"{size:.2f}")
    return table


def side_by_side(with_memory: str, without: str) -> "RenderableType":
    """Two answers to one question."""
    from rich.table import Table
    from rich.text import Text

    table = Table("with memory", "without", expand=False, min_width=40)
    table.add_row(Text(with_memory), Text(without))
    return table
