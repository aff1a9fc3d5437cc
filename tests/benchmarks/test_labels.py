"""Episodes in MemoryAgentBench's form, made of a file of intents."""

import csv
import json
import sys
from pathlib import Path

import pytest

import labels
from deltamem_lab.tasks.memoryagentbench import MemoryAgentBench


def write(path: Path, texts: dict[str, list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "category"))
        rows.writerows((text, name) for name, own in texts.items() for text in own)
    return path


def test_every_label_has_its_examples_and_the_answers_are_those_of_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"intent{i}" for i in range(9)]
    train = write(tmp_path / "train.csv", {name: [f"{name} example\n {i}" for i in range(4)] for name in names})
    test = write(tmp_path / "test.csv", {name: [f"{name} question"] for name in (*names[1:], "only here")})
    output = tmp_path / "labels.jsonl"
    shape = ["--episodes", "3", "--labels", "4", "--shots", "2", "--questions", "3"]
    monkeypatch.setattr(sys, "argv", ["labels.py", str(train), str(test), "--output", str(output), *shape])
    assert labels.main() == 0

    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert len(rows) == 3
    numbers = []
    for row in rows:
        lines = [line.split("\nlabel: ") for line in row["context"].split("\n\n")]
        number_of = {text.split()[0]: number for text, number in lines}
        assert len(lines) == 8
        assert sorted(number_of.values()) == list("0123")
        assert len({text for text, _ in lines}) == 8
        asked = zip(row["questions"], row["answers"], strict=True)
        assert all(number_of[text.split()[0]] == answer for text, (answer,) in asked)
        assert len(set(row["questions"])) == 3
        assert "intent0" not in number_of
        numbers.append(number_of)
    assert numbers[0] != numbers[1]

    items = list(MemoryAgentBench(output).items("official"))
    assert [len(item.questions) for item in items] == [3, 3, 3]
