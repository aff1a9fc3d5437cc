"""``deltamem chat`` on the embedded backbone, through a pipe: what is told in one run is known in the next."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import deltamem
from deltamem.cli.main import main
from deltamem.cli.terminal.chat import Chat
from deltamem.demo.world import SUGGESTIONS
from deltamem.formats.state import load_state
from deltamem.session import Session


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with lines typed into it: exit code, stdout, stderr."""

    def say(*lines: str, options: tuple[object, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            main(["chat", *map(str, options)])
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err

    return say


def turns(out: str) -> list[str]:
    """What was shown after each prompt."""
    return [part.strip() for part in out.split("you › ")[1:]]


def test_a_fact_outlives_the_process_that_heard_it(say: Any, tmp_path: Path) -> None:
    options = ("--memory", tmp_path / "me.safetensors", "--window", 0)
    code, out, _ = say("I live in Oslo.", "/quit", options=options)
    assert code == 0
    assert "Oslo" not in "".join(turns(out))
    assert (tmp_path / "me.safetensors").stat().st_size < 20_000
    code, out, _ = say("Where do I live?", options=options)
    assert code == 0
    assert "tokens of earlier conversations" in out
    assert turns(out)[0] == "model › Oslo."


def test_replies_are_written_or_left_out(say: Any, tmp_path: Path) -> None:
    model, _ = deltamem.load_model("embedded")
    written = {}
    for name, more in (("both", ()), ("yours", ("--no-write-replies",))):
        file = tmp_path / name
        assert say("I live in Oslo.", options=("--memory", file, *more))[0] == 0
        written[name] = int(load_state(file, model).tokens.sum())
        code, out, _ = say("Where do I live?", options=("--memory", file, "--window", 0))
        assert code == 0
        assert turns(out)[0] == "model › Oslo."
    assert 0 < written["yours"] < written["both"]


def test_bytes_that_are_no_text_are_told_and_the_chat_goes_on(say: Any) -> None:
    code, out, _ = say("Hello!", "\udcff\udcfeHi", "Hello!")
    assert code == 0
    first, damaged, last, _ = turns(out)
    assert "half of a surrogate pair at character 0" in damaged
    assert "not UTF-8" in damaged
    assert first.startswith("model › ")
    assert last.startswith("model › ")


def test_commands_explain_show_and_forget(say: Any) -> None:
    code, out, _ = say("I live in Oslo.", "/memory", "/context off", "/save", "/what", "/forget", "/memory", "/quit")
    assert code == 0
    _, memory, context, save, what, forget, empty, _ = turns(out)
    assert "6,144 bytes" in memory
    assert "tokens written" in memory
    assert [line.split()[0] for line in memory.splitlines()[2:]] == list("012345")
    assert memory.count("█") > 28
    assert "visible text is gone" in context
    assert "Nothing saved" in save
    assert "no command /what" in what
    assert "/rollback [N]" in what
    assert "memory is empty" in forget
    assert ", 0 tokens written" in empty
    assert "█" not in empty


def test_the_suggestions_on_screen_are_ones_it_can_answer(say: Any) -> None:
    answers = ("Lisbon.", "tortoise.", "cello.", "July 20.", "Porto.")
    lines = [line for told, asked in SUGGESTIONS for line in (told, "/context off", asked)]
    code, out, _ = say(*lines)
    assert code == 0
    shown = turns(out)
    for (told, asked), answer, reply in zip(SUGGESTIONS, answers, shown[2::3], strict=True):
        assert told in out
        assert asked in out
        assert reply == f"model › {answer}"


def test_branches_rollback_and_freezing(say: Any) -> None:
    code, out, _ = say(
        "I live in Porto.",
        "/context off",
        "/fork other",
        "Actually, I live in Oslo now.",
        "/compare Where do I live?",
        "/switch main",
        "/compare Where do I live?",
        "/switch other",
        "/rollback",
        "/compare Where do I live?",
        "/rollback 99",
        "/rollback two",
        "/freeze",
        "/forget",
        "/unfreeze",
        "/switch nowhere",
        "/fork main",
    )
    assert code == 0
    assert "you (other) › " in out
    assert "you (other, frozen) › " in out
    rows = [line.split("│")[1:3] for line in out.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["Oslo.", "Porto.", "Porto."]
    assert [row[1].strip() for row in rows] == ["I don't know."] * 3
    for said in ("cannot be rolled back", "number of turns", "unfreeze()", "one of: main, other", "takes a new name"):
        assert said in out


def test_saving_loading_and_reading_files(say: Any, tmp_path: Path) -> None:
    story, saved = tmp_path / "story.txt", tmp_path / "a file.safetensors"
    story.write_text("I live in Oslo.")
    code, out, _ = say(
        f"/read {story}", f"/save {saved}", "/forget", f"/load {saved}", "Where do I live?", f"/load {story}", "/load"
    )
    assert code == 0
    read, save, _, load, answer, damaged, *_ = turns(out)
    assert "tokens in" in read
    assert "a file.safetensors" in save
    assert "tokens are in this memory" in load
    assert answer == "model › Oslo."
    assert "story.txt" in damaged
    assert "/load takes a file" in out


def test_a_line_that_ends_in_a_backslash_goes_on(say: Any) -> None:
    _, out, _ = say("I live \\", "in Oslo.", "/context off", "Where do I live?")
    assert turns(out)[2] == "model › Oslo."


def test_what_goes_wrong_is_said_and_the_chat_goes_on(say: Any, tmp_path: Path) -> None:
    code, out, _ = say("word " * 600, "/read nowhere.txt", "/context", "/compare", "Hello!", "/quit", "never read")
    assert code == 0
    long, missing, context, compare, hello, *rest = turns(out)
    assert "512 positions" in long
    assert missing == "nowhere.txt: No such file or directory."
    assert "on or off" in context
    assert "takes a question" in compare
    assert hello.startswith("model › ")
    assert len(rest) == 1


def test_a_model_needs_an_adapter(say: Any) -> None:
    code, _, err = say(options=("--model", "owner/somewhere"))
    assert code == 1
    assert "--model owner/somewhere needs an --adapter" in err
    assert "deltamem init owner/somewhere my-adapter" in err
    code, _, err = say(options=("--adapter", "somewhere"))
    assert code == 1
    assert "--adapter needs the --model that it is for" in err


def test_it_says_which_model_talks_and_a_missing_one_names_the_command(say: Any) -> None:
    assert "Talking to embedded." in say("/quit")[1]
    code, _, err = say(options=("--model", "smollm2"))
    assert code == 1
    assert "Fetch it (93 MB): deltamem pull smollm2" in err


def test_a_device_that_is_none_is_refused_in_our_words(say: Any) -> None:
    code, _, err = say(options=("--device", "gpu"))
    assert code == 1
    assert "A device is auto, cpu, cuda, cuda:NUMBER or mps, not 'gpu'" in err


def test_a_model_without_a_chat_template_is_given_one(say: Any, tmp_path: Path) -> None:
    bare, template = tmp_path / "bare", tmp_path / "own.jinja"
    shutil.copytree(Path(deltamem.__file__).parent / "demo" / "assets", bare)
    (bare / "chat_template.jinja").rename(template)
    options = ("--model", bare, "--adapter", bare / "adapters" / "multi", "--temperature", 0)
    code, _, err = say("Hello", options=options)
    assert code == 1
    assert f"{bare} has no chat template" in err
    assert "--chat-template FILE" in err
    code, out, _ = say("I live in Oslo.", "Where do I live?", options=(*options, "--chat-template", template))
    assert code == 0
    assert "Oslo" in turns(out)[1]


def test_temperature_and_system_reach_the_model(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "I live in Oslo."
    likeliest = [say(told, "Where do I live?", options=("--temperature", 0))[1] for _ in "ab"]
    assert likeliest[0] == likeliest[1]
    torch.manual_seed(0)
    wild = say(told, "Where do I live?", options=("--temperature", 50, "--max-new-tokens", 8))[1]
    assert turns(wild)[1] != turns(likeliest[0])[1]
    sessions: list[Session] = []
    monkeypatch.setattr(Chat, "run", lambda self, lines: sessions.append(self.session))
    say(options=("--system", "Be brief."))
    assert sessions[0].system == "Be brief."


def test_a_damaged_memory_is_refused_and_kept(say: Any, tmp_path: Path) -> None:
    memory = tmp_path / "me.safetensors"
    memory.write_bytes(b"not a memory")
    code, _, err = say("Hello.", options=("--memory", memory))
    assert code == 1
    assert str(memory) in err
    assert memory.read_bytes() == b"not a memory"


def test_a_folder_that_is_not_there_is_not_made(say: Any, tmp_path: Path) -> None:
    code, out, _ = say(f"/save {tmp_path / 'no' / 'such' / 'me.safetensors'}", "/rollback 1")
    assert code == 0
    assert "There is no folder" in out
    assert not (tmp_path / "no").exists()
    assert "1 turn cannot be rolled back" in out


def test_one_question_is_answered_and_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def ask(said: str, question: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        with pytest.raises(SystemExit) as exit_:
            main(["ask", question, "--model", "embedded", "--memory", str(memory)])
        assert exit_.value.code == 0
        return capsys.readouterr().out

    memory = tmp_path / "me.safetensors"
    assert ask("I live in Oslo.", "Where do I live?") == "Oslo.\n"
    held = memory.read_bytes()
    assert ask("", "Where do I live?") == "Oslo.\n"
    assert memory.read_bytes() == held
