"""The chat itself: turns, and the session they belong to."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltamem.cli.terminal.commands import COMMANDS, help_text
from deltamem.demo.world import SUGGESTIONS
from deltamem.models.catalog import EMBEDDED
from deltamem.wording import counted, reason

if TYPE_CHECKING:
    from rich.console import Console

    from deltamem.cli.terminal.lines import PlainLines, TerminalLines
    from deltamem.session import Session

MAIN = "main"


class Chat:
    """A conversation at the terminal, with branches of it by name.

    Args:
        session: the conversation.
        console: where to show it.
        memory: the file that its memory is saved to whenever it has changed, if any.
        options: for ``generate``, such as ``max_new_tokens``.
    """

    def __init__(self, session: "Session", console: "Console", memory: Path | None, options: Mapping[str, Any]) -> None:
        self.branches = {MAIN: session}
        self.branch = MAIN
        self.console = console
        self.memory = memory
        self.options = options
        self.window = session.window or 8

    @property
    def session(self) -> "Session":
        """The conversation of the branch one is in."""
        return self.branches[self.branch]

    def welcome(self, model: str) -> None:
        """Says which model talks and how to begin; of the embedded toy also what it understands."""
        self.note(f"Talking to {model}.")
        if model == EMBEDDED:
            self.note("It is a toy that knows a small world. Tell it something, then ask:")
            width = max(len(told) for told, _ in SUGGESTIONS)
            for told, asked in SUGGESTIONS:
                self.note(f"  {told:{width}}   {asked}")
            self.note("More of its world: deltamem demo --facts. A real chat model: deltamem pull smollm2")
        written = int(self.session.state.tokens[0])
        if written:
            self.note(f"Its memory holds {counted(written, 'token')} of earlier conversations.")
        self.note("/help lists the commands; Ctrl-D or /quit leaves, Ctrl-C stops an answer.")

    def run(self, lines: "PlainLines | TerminalLines") -> None:
        """Reads and answers until there is nothing more to read."""
        while True:
            try:
                if said := lines.read(self.prompt()).strip():
                    self.take(said)
            except KeyboardInterrupt:
                self.console.print()
                if not lines.interactive:
                    break
            except EOFError:
                self.console.print()
                break
        if self.memory is not None:
            self.save(self.memory)

    def take(self, said: str) -> None:
        """Runs a command or answers a message; what goes wrong is said, and the chat goes on.

        Raises:
            EOFError: it was time to leave.
        """
        before, held = self.session.last_turn, self.session.state
        try:
            if said.startswith("/"):
                self._command(said)
            else:
                self._answer(said)
            if self.memory is not None and self.session.state is not held:
                self.session.save(self.memory)
        except KeyboardInterrupt:
            self.note("\nStopped; nothing was written." if self.session.last_turn is before else "\nStopped.")
        except (ValueError, RuntimeError, OSError) as error:
            self.console.print(reason(error), style="red", markup=False, highlight=False)

    def prompt(self) -> str:
        """What stands before a line to be typed."""
        marks = [self.branch] * (len(self.branches) > 1) + ["frozen"] * self.session.frozen
        return f"you ({', '.join(marks)}) › " if marks else "you › "

    def completions(self, typed: str) -> Iterable[str]:
        """The commands that begin as typed; after one that takes a word, the words it knows."""
        name, blank, _ = typed.partition(" ")
        if not typed.startswith("/"):
            return []
        words = {"/context": ("on", "off"), "/switch": tuple(self.branches)}.get(name, ()) if blank else ()
        wholes = [f"{name} {word}" for word in words] if blank else [f"/{command}" for command in COMMANDS]
        return [whole for whole in wholes if whole.startswith(typed)]

    def save(self, path: Path) -> None:
        """Saves the memory of this branch and says so."""
        self.session.save(path)
        self.note(f"Memory saved to {path} ({path.stat().st_size:,} bytes).")

    def note(self, text: str) -> None:
        """Says something that is not part of the conversation."""
        self.console.print(text, style="dim", markup=False, highlight=False)

    def _command(self, said: str) -> None:
        name, _, argument = said.removeprefix("/").partition(" ")
        if name not in COMMANDS:
            self.note(f"There is no command /{name}. There are:\n{help_text()}")
            return
        COMMANDS[name].run(self, argument.strip())

    def _answer(self, said: str) -> None:
        self.console.print("model › ", end="", style="bold")
        with closing(self.session.stream(said, **self.options)) as pieces:
            for piece in pieces:
                self.console.print(piece, end="", markup=False, highlight=False)
        self.console.print()
        turn = self.session.last_turn
        if turn is not None and turn.left and self.session.window:
            left = counted(len(turn.left), "message")
            self.note(f"{left} left the visible text; what was written of it is in the memory.")
