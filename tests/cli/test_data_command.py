"""``deltamem data``, as a person types it."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

import deltamem
from deltamem.cli.data import DataKind
from deltamem.cli.main import main
from deltamem.train.data.converters import KINDS

TOKENIZER = Path(deltamem.__file__).parent / "demo" / "assets"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("DELTAMEM_HOME", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main(["data", *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err

    return run


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    asked = [{"id": str(n), "question": f"What is {n}?", "answers": [{"text": "x" * n}]} for n in range(1, 6)]
    data = {"data": [{"title": "T", "paragraphs": [{"context": "It is a city.", "qas": [*asked, {"question": "?"}]}]}]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def test_every_converter_has_its_word() -> None:
    assert get_args(DataKind) == tuple(KINDS)


def test_convert_then_check(run: Any, squad: Path, tmp_path: Path) -> None:
    code, out, _ = run("convert", "squad", squad, tmp_path / "out.jsonl", "--shortest", 3, "--tokenizer", TOKENIZER)
    assert code == 0
    assert "3 lines from 1 row," in out
    assert "Skipped 1: no answer." in out
    assert "Left out 2 longer lines." in out
    code, out, _ = run("check", tmp_path / "out.jsonl", "--model", TOKENIZER, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["lines"], report["episodes"], report["bad"]) == (3, 3, [])
    assert report["tokens"]["written"]["total"] == 3 * report["tokens"]["written"]["median"]
    assert any((tmp_path / "cache").rglob("*.safetensors"))


def test_a_history_that_would_be_cut_is_told(run: Any, tmp_path: Path) -> None:
    context = "It is a city. " * 10_000
    asked = [{"id": "1", "question": "What is it?", "answers": [{"text": "a city"}]}]
    data = {"data": [{"title": "T", "paragraphs": [{"context": context, "qas": asked}]}]}
    (tmp_path / "long.json").write_text(json.dumps(data), encoding="utf-8")
    _, out, _ = run("convert", "squad", tmp_path / "long.json", tmp_path / "long.jsonl")
    assert re.search(r"The longest line has 140,\d{3} characters\. .*write_tokens .* give --shortest\.", out)
    assert re.search(r"1 line from 1 row, 0\.1 MB\.", out)


def test_check_lists_bad_lines_and_fails(run: Any, squad: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    run("convert", "squad", squad, file)
    with open(file, "a", encoding="utf-8") as lines:
        lines.write("{\n")
    code, out, _ = run("check", file, "--tokenizer", TOKENIZER, "--write-tokens", 4, "--write", "sentence")
    assert code == 1
    assert "6 lines, 5 episodes, 1 bad" in out
    assert "Cut from the left: 5 histories" in out
    assert f"{file}:6: not JSON" in " ".join(out.split())


def test_made_facts_are_lines_that_check_reads(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("faker")
    pytest.importorskip("xkcdpass")
    file, long = tmp_path / "told.jsonl", tmp_path / "long.jsonl.gz"
    code, out, _ = run("make", "told", file, "--dialogues", 30, "--facts", "2-3", "--split", "values")
    assert code == 0
    assert re.fullmatch(r"Wrote .*told.jsonl: \d+ lines, questions about 30 dialogues.\n", out)
    code, out, _ = run("check", file, "--tokenizer", TOKENIZER, "--json")
    report = json.loads(out)
    assert (code, report["bad"]) == (0, [])
    assert 60 <= report["lines"] == report["episodes"] <= 120
    code, _, _ = run(
        *("make", "told", long, "--dialogues", 10, "--facts", "2", "--unknown", 0),
        *("--chat", file, "--tokens", 1500, "--tokenizer", TOKENIZER),
    )
    assert code == 0
    code, out, _ = run("check", long, "--tokenizer", TOKENIZER, "--json")
    written = json.loads(out)["tokens"]["written"]
    assert 1350 < written["least"] <= written["most"] <= 1500


def test_replies_are_the_models_own(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("faker")
    pytest.importorskip("xkcdpass")
    chat, file = tmp_path / "told.jsonl", tmp_path / "replies.jsonl"
    run("make", "told", chat, "--dialogues", 5, "--talk", 1)
    options = ["--model", "embedded", "--chat", chat, "--count", 12, "--tokens", 8, "--characters", 80]
    code, out, _ = run("make", "replies", file, *options, "--told", 0)
    first = file.read_text(encoding="utf-8")
    lines = [json.loads(line)["messages"] for line in first.splitlines()]
    assert (code, out) == (0, f"Wrote {file}: {len(lines)} conversations.\n")
    assert 6 <= len(lines) <= 12
    for *prompt, reply in lines:
        assert prompt[-1]["role"] == prompt[0]["role"] == "user"
        assert sum(len(message["content"]) for message in prompt) <= 80
        assert reply["role"] == "assistant"
        assert reply["content"]
    run("make", "replies", file, *options, "--told", 0)
    assert file.read_text(encoding="utf-8") == first
    run("make", "replies", file, *options, "--told", 1)
    assert file.read_text(encoding="utf-8") != first
    run("make", "replies", file, *options, "--told", 0, "--asked", 1)
    for *told, question, _ in (json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()):
        assert told
        assert question["content"].endswith(("?", "."))
    code, _, err = run("make", "replies", file, *options, "--asked", 0.8)
    assert (code, err) == (1, "deltamem: told and asked are shares of one whole: 0.25 and 0.8 are above 1.\n")
    code, _, err = run("make", "replies", file, *options, "--characters", 1)
    assert (code, err) == (1, "deltamem: No conversation has a user's message of at most 1 characters.\n")


def test_told_replies_have_no_values_of_their_own(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("faker")
    pytest.importorskip("xkcdpass")
    file = tmp_path / "told_replies.jsonl"
    code, out, _ = run("make", "told-replies", file, "--model", "embedded", "--count", 60, "--tokens", 8)
    first = file.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in first.splitlines()]
    assert (code, out) == (0, f"Wrote {file}: {len(lines)} lines.\n")
    assert 30 <= len(lines) <= 60
    for line in lines:
        assert set(line) == {"relation", "other", "reply"}
        assert not set("{}") & set(line["reply"].replace("{v}", "").replace("{subject}", ""))
    run("make", "told-replies", file, "--model", "embedded", "--count", 60, "--tokens", 8)
    assert file.read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--facts", "few"], "--facts must be two numbers, such as 1-4, or one, not 'few'."),
        (["--corrected", 2], "corrected is a share and must be from 0 to 1, not 2.0."),
        (["--chat", "x.jsonl"], "--chat and --tokenizer go together: the tokenizer counts how long the chat is."),
    ],
)
def test_impossible_facts_are_refused(run: Any, tmp_path: Path, options: list[object], message: str) -> None:
    file = tmp_path / "told.jsonl"
    code, _, err = run("make", "told", file, *options)
    assert (code, err) == (1, f"deltamem: {message}\n")
    assert not file.exists()


def test_errors_are_one_line(run: Any, tmp_path: Path) -> None:
    code, out, err = run("check", tmp_path / "none.jsonl", "--tokenizer", TOKENIZER)
    assert (code, out) == (1, "")
    assert err == f"deltamem: {tmp_path / 'none.jsonl'}: no such file.\n"
