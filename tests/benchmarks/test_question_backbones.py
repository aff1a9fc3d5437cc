"""The question about two backbones: the dialogues to be continued, the one recipe, and a small run."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltamem.demo.backbone import load_backbone
from questions import backbones
from stories import LENGTH, WRITTEN


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    """Options with which no model has to tell stories: they are there already."""
    found = argparse.Namespace(model=tmp_path / "model", steps=1, held_out=8, seed=0, runs=tmp_path)
    save_file({"stories": torch.ones(24, LENGTH, dtype=torch.int32)}, tmp_path / "model-24-0.safetensors")
    return found


def test_dialogues_are_cut_like_stories() -> None:
    _, tokenizer = load_backbone()
    found = backbones.dialogues(tokenizer, count=6, seed="a")
    assert len(found) == 6
    for place in range(6):
        episode = found[place]
        assert len(episode.history[0].ids) == WRITTEN
        query = episode.queries[0]
        assert len(query.ids) <= LENGTH - WRITTEN
        # What is trained are whole words of the assistant, and the end of its message.
        assert 0 < sum(query.weights) < len(query.ids)
        text = tokenizer.decode([token for token, weight in zip(query.ids, query.weights, strict=True) if weight])
        assert "<|im_start|>" not in text
    assert found[0] == backbones.dialogues(tokenizer, count=1, seed="a")[0]
    assert found[0] != backbones.dialogues(tokenizer, count=1, seed="b")[0]


def test_the_recipes_differ_in_backbone_and_data_alone(options: argparse.Namespace) -> None:
    parts = backbones.parts(options)
    assert list(parts) == ["facts", "dialogues", "stories"] == list(backbones.LABELS)
    recipes = [backbones.recipe_of(part, 5, 0, options.runs / "run") for part in parts.values()]
    for name in ("adapter", "optimiser", "objective", "seed", "output"):
        assert len({repr(getattr(recipe, name)) for recipe in recipes}) == 1
    assert {recipe.schedule.steps for recipe in recipes} == {5}
    assert all(recipe.evaluation.control for recipe in recipes)


def test_a_run_is_compared_with_its_static_control_and_drawn(options: argparse.Namespace) -> None:
    part = backbones.parts(options)["dialogues"]
    found = backbones.measure("dialogues", part, options)
    figures, intervals = found["figures"], found["intervals"]
    gap = figures["nothing"] - figures["full"]
    assert gap > 0
    assert figures["memory_share"] == pytest.approx((figures["static"] - figures["own"]) / gap, abs=1e-3)
    assert all(intervals[share][0] <= figures[share] <= intervals[share][1] for share in backbones.SHARES)
    assert len(backbones.draw({"runs": {"dialogues": found}}).axes[0].patches) == len(backbones.SHARES)
