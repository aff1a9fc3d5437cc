"""``deltamem chat`` at a terminal: keys, history, completion, Ctrl-C, and the whole of it on a pseudo-terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from deltamem import Session
from deltamem.cli.terminal.chat import Chat
from deltamem.cli.terminal.lines import TerminalLines, terminal_lines
from deltamem.demo.show import load_demo
from deltamem.extensions import how_to_install

ENTER, ALT_ENTER, UP, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x1b[A", "\x03", "\x04"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    """A keyboard; what is sent to it was typed."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(*load_demo())


def chat_with(session: Session, longest: int = 24) -> Chat:
    return Chat(session.fork(), Console(record=True, width=100), None, {"max_new_tokens": longest})


def test_lines_are_sent_by_enter_and_grow_by_alt_enter_or_a_backslash(keys: PipeInput) -> None:
    lines = TerminalLines(lambda typed: [])
    keys.send_text(f"Hello.{ENTER}one{ALT_ENTER}two{ENTER}one\\{ENTER}two{ENTER}a \\ b{ENTER}")
    assert [lines.read("› ") for _ in range(4)] == ["Hello.", "one\ntwo", "one\ntwo", "a \\ b"]


def test_the_arrow_brings_back_what_was_typed(keys: PipeInput, tmp_path: Path) -> None:
    lines = TerminalLines(lambda typed: [], tmp_path / "typed")
    keys.send_text(f"Hello.{ENTER}")
    assert lines.read("› ") == "Hello."
    for reader in (lines, TerminalLines(lambda typed: [], tmp_path / "typed")):
        later = threading.Timer(0.5, keys.send_text, [f"{UP}{ENTER}"])  # the file is read in the meantime
        later.start()
        assert reader.read("› ") == "Hello."
        later.join()


def test_control_keys_leave_the_line_or_the_chat(keys: PipeInput) -> None:
    lines = TerminalLines(lambda typed: [])
    keys.send_text(f"half a line{CTRL_C}")
    with pytest.raises(KeyboardInterrupt):
        lines.read("› ")
    keys.send_text(CTRL_D)
    with pytest.raises(EOFError):
        lines.read("› ")


def test_commands_are_completed(keys: PipeInput, session: Session) -> None:
    chat = chat_with(session)
    assert list(chat.completions("/me")) == ["/memory"]
    assert set(chat.completions("/f")) == {"/fork", "/freeze", "/forget"}
    assert list(chat.completions("/context o")) == ["/context on", "/context off"]
    chat.take("/fork other")
    assert list(chat.completions("/switch ")) == ["/switch main", "/switch other"]
    assert list(chat.completions("hello")) == list(chat.completions("/save a")) == []
    completer = TerminalLines(chat.completions)._session.completer
    found = list(completer.get_completions(Document("/me"), CompleteEvent()))
    assert [(one.text, one.start_position) for one in found] == [("/memory", -3)]


def test_the_chat_runs_on_typed_lines(keys: PipeInput, session: Session) -> None:
    chat = chat_with(session)
    keys.send_text(f"I live in Oslo.{ENTER}{CTRL_C}/context off{ENTER}Where do I live?{ENTER}{CTRL_D}")
    chat.run(TerminalLines(chat.completions))
    assert "model › Oslo." in chat.console.export_text()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_control_c_stops_an_answer_and_not_the_chat(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_with(session, longest=400)
    before = chat.session.state
    monkeypatch.setattr(session.model.generation_config, "eos_token_id", None)
    passes: list[int] = []

    def interrupt(*_: object) -> None:
        passes.append(1)
        if len(passes) == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with session.model.register_forward_hook(interrupt):
        chat.take("Where do I live?")
    assert len(passes) < 400
    assert chat.session.state is before
    assert chat.session.visible == []
    assert "Stopped; nothing was written." in chat.console.export_text(clear=False)
    monkeypatch.undo()
    chat.take("I live in Oslo.")
    assert len(chat.session.visible) == 2


def test_whatever_changes_the_memory_is_in_its_file_at_once(session: Session, tmp_path: Path) -> None:
    memory, other = tmp_path / "me.safetensors", tmp_path / "other.safetensors"
    chat = Chat(session.fork(), Console(quiet=True), memory, {"max_new_tokens": 24})
    for said in (
        "I live in Oslo.",
        f"/save {other}",
        "/fork b",
        "Hello!",
        "/switch main",
        "/rollback",
        f"/load {other}",
        "/forget",
    ):
        chat.take(said)
        assert memory.read_bytes() == chat.session.export_bytes(), said


def test_without_prompt_toolkit_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    console = Console(record=True)
    assert terminal_lines(console, lambda typed: [], None) is None
    assert how_to_install("chat") in " ".join(console.export_text().split())


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._keyboard, screen = pty.openpty()
        environment = os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deltamem", *arguments], stdin=screen, stdout=screen, stderr=screen, env=environment
        )
        os.close(screen)
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def wait_for(self, text: str, seconds: float = 300) -> None:
        """Waits until ``text`` is on the screen, after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self._shown:
            assert select.select([self._keyboard], [], [], max(0, end - time.monotonic()))[0], self._shown
            raw = os.read(self._keyboard, 65536).decode(errors="replace")
            self._shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
        self._shown = self._shown.partition(text)[2]

    def close(self) -> int:
        code = self.process.wait(300)
        os.close(self._keyboard)
        return code


def test_on_a_real_terminal(tmp_path: Path) -> None:
    memory = tmp_path / "me.safetensors"
    terminal = Terminal("chat", "--memory", str(memory), "--window", "0")
    try:
        terminal.wait_for("Which city do I live in?")
        terminal.wait_for("you ›")
        terminal.type("I live in Oslo." + ENTER)
        terminal.wait_for("model › ")
        terminal.wait_for("you ›")
        assert memory.exists()
        terminal.type("half a line" + CTRL_C)
        terminal.wait_for("you ›")
        terminal.type("Where do I live?" + ENTER)
        terminal.wait_for("model › Oslo.")
        terminal.wait_for("you ›")
        terminal.type("/mem")
        terminal.wait_for("/memory")
        terminal.type("\t" + ENTER)
        terminal.wait_for("6,144 bytes")
        terminal.wait_for("you ›")
        terminal.type(CTRL_D)
        terminal.wait_for("Memory saved to")
        assert terminal.close() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
