"""Weights in closed form: what they bring before any update, what they are computed from, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import pair_batch, small_model
from toy import recipe
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.formats.adapter import read_adapter
from deltamem.step import Step
from deltamem.train import Episode, Text, collate
from deltamem.train.fit import fit
from deltamem.train.fitoptions import FitOptions
from deltamem.train.long import Writing, write_history
from deltamem.train.recipe import Recipe
from deltamem.train.run import run


def right(model: PreTrainedModel) -> float:
    """The share of 128 questions for which what the layers read of the memory raises the right value's logit most."""
    attachment = attached(model)
    vectors = model.get_output_embeddings().weight[10:16]
    hits = 0
    for seed in range(1000, 1008):
        batch = pair_batch(seed)
        inputs: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            state, _ = write_history(model, attachment.new_state(batch.rows), batch.passages, Writing())
            state = state.select(batch.episode_of)
            attachment.base(batch.queries.ids, use_cache=False, memory=Step(state, write=False, inputs=inputs))
            added = torch.zeros(len(batch.episode_of), vectors.shape[1])
            for layer, memory in enumerate(attachment.memories()):
                reads = memory.reads(inputs[layer], state.states[layer])[:, 2].flatten(-2)
                added += reads @ memory.named_parts()["delta_o"].T
        hits += int((10 + (added @ vectors.T).argmax(1) == batch.queries.ids[:, 3]).sum())
    return hits / 128


def test_the_memory_finds_what_was_told_before_any_update() -> None:
    model = small_model(states=2)
    before = right(model)
    told = fit(model, (pair_batch(seed) for seed in range(40)), FitOptions(batches=30))
    assert told == 30 * 16
    assert before < 0.4
    assert right(model) > 0.5
    for memory in attached(model).memories():
        assert not memory.named_parts()["delta_q"].any()


@pytest.mark.parametrize("gates", ["learned", "fixed"])
def test_the_same_data_gives_the_same_weights(gates: str) -> None:
    weights = []
    for _ in range(2):
        model = small_model(gates=gates)
        fit(model, map(pair_batch, range(4)))
        weights.append(torch.cat([p.flatten() for m in attached(model).memories() for p in m.parameters()]))
    assert torch.equal(*weights)
    assert weights[0].isfinite().all()


@pytest.mark.parametrize("fields", [{"rowwise_gates": False}, {"coupled_gates": False}, {"key_tokens": 2}])
def test_gates_of_every_kind_get_their_weights(fields: dict[str, Any]) -> None:
    model = small_model(**fields)
    fit(model, map(pair_batch, range(30)))
    assert right(model) > 0.5


def test_answers_that_were_not_told_are_no_help() -> None:
    history = Text((1, 10, 32), (0.0,) * 3, (0, 0, 0))
    query = Text((33, 1, 34, 20), (0.0, 0.0, 0.0, 1.0), (0, 0, -1, -1))
    with pytest.raises(ValueError, match="8 such tokens, and there are 0"):
        fit(small_model(), [collate([Episode((history,), (query,))], 0)])


def test_a_value_told_in_an_earlier_passage_counts() -> None:
    passages = tuple(Text((key, key + 9, 32), (0.0,) * 3, (0, 0, 0)) for key in range(1, 7))
    queries = tuple(Text((33, key, 34, key + 9), (0.0, 0.0, 0.0, 1.0), (0, 0, -1, -1)) for key in range(1, 7))
    batch = collate([Episode(passages, queries), Episode(passages[:2], queries[:2])], 0)
    assert fit(small_model(), [batch]) == 8


@pytest.mark.parametrize("fields", [{"write": "message"}, {"heads": ("q",)}])
def test_adapters_without_a_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave fit out"):
        fit(small_model(**fields), [])


def test_a_recipe_starts_from_a_fit(tmp_path: Path) -> None:
    adapters = []
    for place, sections in enumerate(({}, {"fit": {"batches": 4}})):
        values = recipe(tmp_path / str(place), schedule={"steps": 1}, **sections)
        run(Recipe.model_validate(values))
        adapters.append(read_adapter(tmp_path / str(place)))
    fresh, fitted = (adapter.tensors["layers.0.delta_o"] for adapter in adapters)
    assert fresh.shape == fitted.shape
    assert (fresh - fitted).abs().max() > 0.05


def test_a_recipe_has_one_start() -> None:
    values = recipe("x", fit={})
    with pytest.raises(ValueError, match="either start"):
        Recipe.model_validate({**values, "start": "some/folder"})
    with pytest.raises(ValueError, match="leave fit out"):
        Recipe.model_validate({**values, "adapter": {"write": "message"}})
    with pytest.raises(ValueError, match="subspace"):
        Recipe.model_validate({**values, "fit": {"subspace": 0}})
