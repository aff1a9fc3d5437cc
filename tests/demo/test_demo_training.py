"""The recipe that trains on the toy world."""

import json
from pathlib import Path

import pytest

from deltamem.demo.backbone import load_backbone
from deltamem.demo.training import held_out_episodes, training_batches
from deltamem.train.recipefile import load_recipe
from deltamem.train.run import run

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded.yaml"


def test_the_embedded_recipe_trains_and_measures(tmp_path: Path) -> None:
    changes = ["schedule.steps=3", "data.options.steps=3", "evaluation.every=3", "evaluation.data.options.dialogues=4"]
    outcome = run(load_recipe(RECIPE, [*changes, "data.options.episodes=4", f"output.folder={tmp_path}"]))
    assert outcome.steps == 3
    assert outcome.measured is not None
    # The backbone answers from the text, and cannot without it.
    assert outcome.measured.full < 0.5 < 2 < outcome.measured.nothing
    assert outcome.measured.memory_share is not None
    assert "memory_share" in json.loads((tmp_path / "metrics.json").read_text())["measured"]


def test_batches_come_from_their_number_and_held_out_episodes_from_the_seed() -> None:
    _, tokenizer = load_backbone()
    first, second = (training_batches(tokenizer, steps=4, max_facts=2, episodes=2) for _ in range(2))
    assert first[3].queries.ids.equal(second[3].queries.ids)
    with pytest.raises(IndexError, match="Batch 4 of 4"):
        first[4]
    held = held_out_episodes(tokenizer, dialogues=2, facts=3)
    assert [len(held[i].queries) for i in range(len(held))] == [3, 3]
    assert held[0] == held_out_episodes(tokenizer, dialogues=2, facts=3)[0]
