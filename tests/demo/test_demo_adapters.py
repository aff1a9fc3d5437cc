"""The shipped adapters: small, loadable, and as good as they are said to be; and the command that trains one."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from deltamem import attached, memory_cache
from deltamem.chat import encode_chat
from deltamem.demo import adapters
from deltamem.demo.adapters import RECIPES, REFINED, TRAINING_FILE, Which, held_out_recall, load_demo_adapter, train
from deltamem.demo.backbone import load_backbone
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.world import Message


@pytest.fixture(scope="module")
def demo() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    model, tokenizer = load_backbone()
    for which in RECIPES:
        load_demo_adapter(model, which)
    return model, tokenizer


@pytest.mark.parametrize("which", RECIPES)
def test_an_adapter_is_under_a_megabyte_and_of_its_recipe(
    demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast], which: Which
) -> None:
    folder = files("deltamem.demo").joinpath("assets", "adapters", which)
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 1_000_000
    assert attached(demo[0]).configs[which] == RECIPES[which].config
    assert RECIPES[which].config.rank == 8
    stage = json.loads(folder.joinpath(TRAINING_FILE).read_text("utf-8"))
    if which == "multi":
        assert stage["steps"] == REFINED.plan.steps
    while "after" in stage:
        stage = stage["after"]
    assert stage["steps"] == RECIPES[which].plan.steps


@pytest.mark.parametrize(("which", "least"), [("token", 0.7), ("segment", 0.7), ("multi", 0.92)])
def test_an_adapter_recalls_four_facts(
    demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast], which: Which, least: float
) -> None:
    assert held_out_recall(Reader(*demo), which, facts=4, seed=1) >= least


def test_the_grade_is_what_greedy_generation_says(demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]) -> None:
    model, tokenizer = demo
    attached(model).activate("multi")
    reader = Reader(model, tokenizer)
    told = [Message("user", "I live in Lisbon."), Message("assistant", "Noted.")]
    state = reader.remember("multi", [told])
    ask = "Where do I live?"
    prompt = encode_chat(tokenizer, [{"role": "user", "content": ask}], add_generation_prompt=True).input_ids
    cache = memory_cache(model, state, write=False)
    output = model.generate(prompt, past_key_values=cache, max_new_tokens=12, do_sample=False)
    said = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    graded = reader.recall("multi", state, [Asked(0, ask, said), Asked(0, ask, "Oslo.")])
    assert graded == [True, said == "Oslo."]


def test_an_unknown_adapter_is_refused(demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]) -> None:
    with pytest.raises(ValueError, match="no demo adapter 'large'; there are: token, segment, multi"):
        load_demo_adapter(demo[0], "large")  # type: ignore[arg-type]


def test_training_writes_an_adapter_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["segment"]
    short = dataclasses.replace(
        recipe,
        mix=dataclasses.replace(recipe.mix, max_facts=2, episodes=2),
        plan=dataclasses.replace(recipe.plan, steps=2, evaluate_every=10),
    )
    monkeypatch.setitem(adapters.RECIPES, "segment", short)
    monkeypatch.setattr(adapters, "held_out_recall", lambda reader, which: 0.0)
    assert train("segment", tmp_path / "segment", checkpoint=tmp_path / "segment.pt")
    model, _ = load_backbone()
    adapters.load_adapter(model, tmp_path / "segment")
    weights = attached(model).memories()[0].projection
    assert torch.equal(weights, weights.to(torch.bfloat16).float())
    assert json.loads((tmp_path / "segment" / TRAINING_FILE).read_text())["steps"] == 2
