"""The question how often to write: the cuts, and a small run."""

import json
from pathlib import Path

import pytest
import torch

from deltamem.demo.reader import Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import Utterance
from questions import write_frequency
from questions.write_frequency import WAYS, Told, remember

MESSAGES = [
    Utterance("user", "I live in Oslo."),
    Utterance("assistant", "Hello! How are you?"),
    Utterance("user", "My pet is a dog."),
    Utterance("assistant", "Noted."),
]


def test_updates_are_counted_by_segment() -> None:
    told = Told(list(range(10)), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], [-1, 0, 0, 1, -1, -1, 2, 2, 3, -1])
    counted = {name: way.updates(told) for name, way in WAYS.items()}
    assert counted == {
        "none": 0,
        "token": 10,
        "token_second": 5,
        "token_user": 5,
        "segment_1": 10,
        "segment_4": 3,
        "sentence": 4,
        "message": 2,
        "exchange": 1,
        "dialogue": 1,
    }


def test_a_message_a_write_is_how_the_adapter_was_trained_and_other_ways_differ() -> None:
    model, tokenizer = load_demo()
    told = [Told.of(tokenizer, MESSAGES), Told.of(tokenizer, MESSAGES[:2])]
    expected = Reader(model, tokenizer).remember("segment", [MESSAGES, MESSAGES[:2]])
    written = remember(model, WAYS["message"], told)
    for one, other in zip(written.states, expected.states, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(remember(model, WAYS["sentence"], told).states[0], expected.states[0])
    users = [sum(number % 2 == 0 for number in each.messages) for each in told]
    assert remember(model, WAYS["token_user"], told).tokens.tolist() == users


def test_a_small_run_has_every_way_with_recall_and_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.svg")]
    assert write_frequency.main(["--questions", "8", "--rounds", "1", *files]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert list(report["recall"]) == list(report["times"]) == list(WAYS)
    assert report["recall"]["token"]["1"]["value"] > report["recall"]["none"]["1"]["value"] == 0.0
    assert report["times"]["message"]["updates_a_turn"] == 2
    assert "<svg" in (tmp_path / "found.svg").read_text()
    assert "every second token" in capsys.readouterr().err
