"""The recipes of the repository, and what ``--dry-run`` counts of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import recipe
from transformers import AutoConfig, AutoModelForCausalLM

from deltamem import DeltaMemConfig, attach
from deltamem.train import Episode, EpisodeObjective, Text, collate
from deltamem.train.plan import layer_bytes, meta_backbone, plan_run
from deltamem.train.recipe import BackboneSection
from deltamem.train.recipefile import load_recipe, parse_recipe
from deltamem.train.run import run

RECIPES = Path(__file__).parents[2] / "recipes"
STRATEGIES = {"tsw": ("token", 1), "ssw": ("message", 1), "msw": ("token", 4)}
BACKBONES = {
    "qwen3-4b-instruct-2507": ("Qwen/Qwen3-4B-Instruct-2507", 0.01, {"tsw": 4_866_336, "msw": 19_465_344}),
    "qwen3-8b": ("Qwen/Qwen3-8B", 0.01, {}),
    "smollm3-3b": ("HuggingFaceTB/SmolLM3-3B", 0.0, {}),
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_papers_nine_runs(backbone: str, strategy: str) -> None:
    found = load_recipe(RECIPES / backbone / f"{strategy}.yaml")
    write, states = STRATEGIES[strategy]
    model, sparsity, parameters = BACKBONES[backbone]
    adapter, objective, optimiser, schedule = found.adapter, found.objective, found.optimiser, found.schedule
    assert found.backbone.model == model
    assert (adapter.rank, adapter.alpha, adapter.heads, adapter.layers) == (8, 16, ("q", "o"), "all")
    assert (adapter.write, adapter.states) == (write, states)
    assert (adapter.gate_bias, adapter.init, adapter.init_gain) == (-1.5, "base_slice_fixed", 0.05)
    assert (objective.cross_entropy, objective.sparsity, objective.sparsity_target) == (1, sparsity, 0.05)
    assert (optimiser.learning_rate, optimiser.weight_decay, optimiser.clip) == (2e-4, 0, 1)
    assert (optimiser.precision, optimiser.gradient_checkpointing) == ("bf16", False)
    assert (schedule.epochs, schedule.batch, schedule.kind, schedule.warm_up) == (1, 32, "cosine", 0.1)
    assert (found.data.write_tokens, found.data.read_tokens) == (8192, 512)  # type: ignore[union-attr]
    assert found.seed == 42
    if strategy in parameters:
        plan = plan_run(found)
        assert (plan["steps"], plan["trainable_parameters"]) == (70, parameters[strategy])


@pytest.mark.parametrize("name", ["llama-3.2-3b", "gemma-3-4b", "small-gpu", "embedded"])
def test_the_other_recipes_can_be_planned(name: str) -> None:
    plan = plan_run(load_recipe(RECIPES / f"{name}.yaml"))
    assert plan["trainable_parameters"] > 0
    assert plan["state_bytes"] > 0
    if name == "embedded":
        # How long what a function makes is, nothing tells.
        assert (plan["tokens"], plan["flops"], plan["memory_bytes"]) == (None, None, None)
    else:
        assert plan["memory_bytes"] > plan["backbone_parameters"]


def test_eight_processes_make_seventy_updates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    plan = plan_run(load_recipe(RECIPES / "qwen3-4b-instruct-2507" / "tsw.yaml"))
    assert (plan["steps"], plan["accumulation"], plan["processes"]) == (70, 4, 8)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="needs model_type"):
        meta_backbone(BackboneSection(model="any", shape={"hidden_size": 8}))


def test_the_planned_updates_are_those_of_the_run(tmp_path: Path) -> None:
    values = recipe(tmp_path, data={"options": {"count": 32}}, evaluation={"held_out": 12, "control": True})
    values["schedule"] = {"epochs": 2, "batch": 8, "micro_batch": 4, "samples": 32}
    plan = plan_run(parse_recipe(values))
    assert (plan["samples"], plan["trainings"]) == (20, 2)
    assert run(parse_recipe(values)).steps == plan["steps"] == 6
    values["schedule"] = {"steps": 9, "batch": 8, "micro_batch": 4, "samples": 32}
    assert plan_run(parse_recipe(values))["samples"] == 20


def test_the_control_is_counted() -> None:
    path = RECIPES / "small-gpu.yaml"
    both, one = (plan_run(load_recipe(path, [f"evaluation.control={kept}"])) for kept in ("true", "false"))
    assert both["samples"] == one["samples"] == 936
    assert both["tokens"] == 2 * one["tokens"]


@pytest.mark.parametrize("states", [1, 4])
def test_a_layer_keeps_about_what_is_planned(states: int) -> None:
    # Qwen3-4B's proportions.
    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 973, "head_dim": 12, "vocab_size": 64}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    adapter = DeltaMemConfig(states=states)
    few, more = (kept(AutoConfig.for_model("qwen3", num_hidden_layers=n, **shape, **heads), adapter) for n in (1, 3))
    config = AutoConfig.for_model("qwen3", **shape, **heads)
    assert layer_bytes(config, adapter, 2) == pytest.approx((more - few) / 2 / 520, rel=0.1)


def kept(config: Any, adapter: DeltaMemConfig) -> int:
    """The bytes kept for the backward pass of an episode of 512 written and 8 read tokens, in bfloat16."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
    attach(model, adapter)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    told = Text((5,) * 512, (0.0,) * 512, (0,) * 512)
    batch = collate([Episode((told,), (Text((5,) * 8, (*(0.0,) * 7, 1.0), (0,) * 8),))], 0)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        EpisodeObjective(model)(batch)
    return sum(storages.values())
