"""``deltamem data``, as a person types it."""

import json
from pathlib import Path
from typing import Any

import pytest

import deltamem
from deltamem.cli.data import DataKind
from deltamem.cli.main import main
from deltamem.train.data.converters import KINDS

TOKENIZER = Path(deltamem.__file__).parent / "demo" / "assets"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

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
    assert [kind.value for kind in DataKind] == list(KINDS)


def test_convert_then_check(run: Any, squad: Path, tmp_path: Path) -> None:
    code, out, _ = run("convert", "squad", squad, tmp_path / "out.jsonl", "--shortest", 3, "--tokenizer", TOKENIZER)
    assert code == 0
    assert "3 lines from 1 rows" in out
    assert "Skipped 1: no answer." in out
    assert "Left out 2 longer lines." in out
    code, out, _ = run("check", tmp_path / "out.jsonl", "--model", TOKENIZER, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["lines"], report["episodes"], report["bad"]) == (3, 3, [])
    assert report["tokens"]["written"]["total"] == 3 * report["tokens"]["written"]["median"]
    assert any((tmp_path / "cache").rglob("*.safetensors"))


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


def test_errors_are_one_line(run: Any, tmp_path: Path) -> None:
    code, out, err = run("check", tmp_path / "none.jsonl", "--tokenizer", TOKENIZER)
    assert (code, out) == (1, "")
    assert err == f"deltamem: {tmp_path / 'none.jsonl'}: no such file.\n"
