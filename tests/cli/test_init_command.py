"""``deltamem init``: an adapter for a model of one's own, which leaves it as it is."""

from pathlib import Path

import pytest
import torch

import deltamem
from deltamem.cli.main import main


def init(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit:
        main(["init", *map(str, arguments)])
    return int(exit.value.code or 0)


def test_it_writes_an_adapter_that_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert init("embedded", tmp_path / "own", "--states", 2) == 0
    out = capfd.readouterr().out
    assert "3,072 bytes of memory for each session" in out
    assert f"deltamem chat --model embedded --adapter {tmp_path / 'own'}" in out
    model, tokenizer = deltamem.load_model("embedded", tmp_path / "own")
    ids = tokenizer("I live in Oslo.", return_tensors="pt").input_ids
    with torch.no_grad(), deltamem.disabled(model):
        bare = model(ids).logits
    with torch.no_grad():
        assert torch.equal(model(ids).logits, bare)


def test_what_is_there_is_kept_unless_forced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert init("embedded", tmp_path) == 1
    assert "is not empty; give another folder, or --force" in capfd.readouterr().err
    assert init("embedded", tmp_path, "--force") == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
