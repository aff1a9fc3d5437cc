"""``deltamem chat`` on the embedded backbone: what is told in one run is known in the next."""

import io
from pathlib import Path
from typing import Any

import pytest

from deltamem.cli.main import main


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with lines typed into it: exit code, stdout, stderr."""

    def say(*lines: str, options: tuple[object, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        with pytest.raises(SystemExit) as exit:
            main(["chat", *map(str, options)])
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err

    return say


def test_a_fact_outlives_the_process_that_heard_it(say: Any, tmp_path: Path) -> None:
    options = ("--memory", tmp_path / "me.safetensors", "--window", 0)
    code, out, _ = say("I live in Oslo.", "/quit", options=options)
    assert code == 0
    assert "Oslo" not in out
    assert (tmp_path / "me.safetensors").stat().st_size < 20_000
    code, out, _ = say("Where do I live?", options=options)
    assert code == 0
    assert "Oslo." in out


def test_commands_explain_show_and_forget(say: Any) -> None:
    code, out, _ = say("I live in Oslo.", "/memory", "/forget", "/save", "/what", "/quit")
    assert code == 0
    assert "6,144 bytes" in out
    assert "tokens written" in out
    assert "visible text is gone" in out
    assert "Nothing saved" in out
    assert out.count("/quit") == 2


def test_a_model_needs_an_adapter(say: Any) -> None:
    code, _, err = say(options=("--model", "somewhere"))
    assert code == 1
    assert "--model and --adapter go together" in err


def test_a_damaged_memory_is_refused_and_kept(say: Any, tmp_path: Path) -> None:
    memory = tmp_path / "me.safetensors"
    memory.write_bytes(b"not a memory")
    code, _, err = say("Hello.", options=("--memory", memory))
    assert code == 1
    assert str(memory) in err
    assert memory.read_bytes() == b"not a memory"
