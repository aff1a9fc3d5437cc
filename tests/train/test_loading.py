"""What is loaded: a backbone that answers in training as it does in use."""

from typing import Any

import pytest
import torch
from pairs import pair_batch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from deltamem import DeltaMemConfig, attach
from deltamem.train.loading import check_sources, load_backbone
from deltamem.train.passes import read_bare
from deltamem.train.recipe import BackboneSection, Factory, Recipe


def gpt2() -> tuple[GPT2LMHeadModel, None]:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64)), None


def qwen3() -> tuple[Qwen3ForCausalLM, None]:
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=40, attention_dropout=0.5, **shape, **heads)), None


@pytest.mark.parametrize("made", ["gpt2", "qwen3"])
def test_a_backbone_drops_nothing_out_while_an_adapter_is_trained(made: str) -> None:
    model = load_backbone(BackboneSection(factory=Factory(source=f"test_loading:{made}")))[0]
    attach(model, DeltaMemConfig())
    texts = pair_batch(0).queries
    trained, used = (read_bare(model.train(mode), texts).logits for mode in (True, False))
    torch.testing.assert_close(trained, used, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": [], "partz": 2}, "training_batches: got an unexpected keyword argument 'partz'"),
        ({"parts": 2}, "training_batches: missing a required argument: 'stages'"),
    ],
)
def test_options_that_a_source_does_not_take_are_named(options: dict[str, Any], message: str) -> None:
    source = "deltamem.train.data.told.batches:training_batches"
    data = {"source": source, "options": options}
    needed = {"schedule": {"steps": 2, "batch": 2}, "output": {"folder": "runs/none"}}
    recipe = {"backbone": {"model": "embedded"}, "data": data, **needed}
    with pytest.raises(ValueError, match=message):
        check_sources(Recipe.model_validate(recipe))
