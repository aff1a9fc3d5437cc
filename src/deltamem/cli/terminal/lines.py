"""Where the chat's lines come from: a person at a terminal, or a pipe."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltamem.extensions import how_to_install

if TYPE_CHECKING:
    from rich.console import Console

Completions = Callable[[str], Iterable[str]]
_CONTINUED = "\\"


class PlainLines:
    """Lines of standard input. One that ends in a backslash continues on the next.

    Attributes:
        interactive: whether a person types them.
    """

    interactive = False

    def __init__(self, console: "Console") -> None:
        self._console = console

    def read(self, prompt: str) -> str:
        """The next message, of one line or several.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl-C.
        """
        lines = [self._console.input(prompt, markup=False)]
        while lines[-1].endswith(_CONTINUED):
            lines[-1] = lines[-1].removesuffix(_CONTINUED)
            lines.append(self._console.input("… ", markup=False))
        return "\n".join(lines)


class TerminalLines:
    """Lines typed at a terminal, with history, completion and several lines by Alt+Enter or a last backslash.

    Args:
        completions: gives the ways to continue from a beginning.
        history: file that keeps what was typed; in memory if ``None``.
        options: for ``PromptSession``, such as another input and output.
    """

    interactive = True

    def __init__(self, completions: Completions, history: Path | None = None, **options: Any) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            history=FileHistory(str(history)) if history is not None else InMemoryHistory(),
            completer=_completer(completions),
            key_bindings=_keys(),
            prompt_continuation=lambda width, number, wrapped: "… ".rjust(width),
            **options,
        )

    def read(self, prompt: str) -> str:
        """The next message, as :meth:`PlainLines.read` gives it."""
        return self._session.prompt(prompt)


def terminal_lines(console: "Console", completions: Completions, history: Path | None) -> TerminalLines | None:
    """Lines from the terminal, or ``None`` and a word on how to get them if prompt_toolkit is not installed."""
    try:
        return TerminalLines(completions, history)
    except ImportError:
        console.print(f"For history and completion: {how_to_install('chat')}", style="dim", markup=False)
        return None


def _completer(completions: Completions) -> Any:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class Beginnings(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            typed = document.text_before_cursor
            return (Completion(whole, start_position=-len(typed)) for whole in completions(typed))

    return Beginnings()


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(_CONTINUED):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys
