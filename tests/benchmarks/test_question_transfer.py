"""The question what an adapter makes of dialogues it was not trained on: the kinds, and small runs."""

import json
import random
from pathlib import Path

import pytest

from deltamem.demo.lexicon import lexicon
from deltamem.train.recipefile import load_recipe
from deltamem.train.run import run
from questions import transfer
from questions.transfer import KINDS, to_you

HALF = Path(__file__).parents[2] / "recipes" / "embedded-half.yaml"


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("I am afraid of mice.", "You are afraid of mice."),
        ("I was born on May 3.", "You were born on May 3."),
        ("My twin Noor has my hat.", "Your twin Noor has your hat."),
        ("You will know me by the hat.", "I will know you by the hat."),
        ("Ivan lives in Rome.", "Ivan lives in Rome."),
    ],
)
def test_the_assistant_speaks_of_you(said: str, heard: str) -> None:
    assert to_you(said) == heard


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_tells_what_it_asks_for(name: str) -> None:
    rng = random.Random(3)
    for _ in range(20):
        dialogue = KINDS[name].tell(rng)
        text = " ".join(message.text for message in dialogue.messages)
        assert dialogue.questions
        assert [message.role for message in dialogue.messages[:2]] == ["user", "assistant"]
        for question in dialogue.questions:
            assert question.answer.removesuffix(".") in text
            assert question.fact is not None
            if question.fact.subject != "user":
                assert question.fact.subject in text


def test_a_new_phrase_is_around_every_fact() -> None:
    said = [message.text for message in transfer.framed(random.Random(0)).messages if message.role == "user"]
    openings = [frame.removesuffix("{t}") for frame in transfer.FRAMES]
    assert len(said) == transfer.FACTS
    assert all(any(text.startswith(opening) for opening in openings) for text in said)


def test_a_small_run_with_an_adapter_of_half_of_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "HALF_FACTS", (1, 2))
    changes = [
        "schedule.steps=1",
        "data.options.steps=1",
        "data.options.episodes=2",
        "evaluation.data.options.dialogues=4",
    ]
    outcome = run(load_recipe(HALF, [*changes, f"output.folder={tmp_path / 'half'}"]))
    assert outcome.measured is not None
    files = ["--json", str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.png")]
    assert transfer.main(["--half", str(tmp_path / "half"), "--dialogues", "2", *files]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert list(report["kinds"]) == list(KINDS)
    assert report["kinds"]["plain"]["multi"]["questions"] == 2 * transfer.FACTS
    halves = report["half"]["attributes"]
    assert sorted(halves["seen"] + halves["unseen"]) == sorted(lexicon().attributes)
    assert len(halves["seen"]) == len(halves["unseen"])
    # An adapter after one update recalls nothing; the package's recalls much.
    recall = report["half"]["recall"]
    assert recall["half_trained/unseen"]["1"]["value"] < 0.5 < recall["multi/unseen"]["1"]["value"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        transfer.main(["--half", str(tmp_path)])
    assert "deltamem train recipes/embedded-half.yaml" in capsys.readouterr().err
