"""Backbones that carry a LoRA, or whose linear layers are quantised."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import deltamem
from deltamem import DeltaMemConfig, Step
from tiny import assert_same_state, backbone, enliven, live_state, tokens

# PEFT asks transformers for a property that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
TARGETS = {"qwen3": ["q_proj", "o_proj", "up_proj"], "phi3": ["qkv_proj", "o_proj"], "gpt2": ["c_attn"]}
ALL_HEADS = DeltaMemConfig(rank=4, alpha=4.0, heads=("q", "k", "v", "o"), init="random")


def with_lora(family: str) -> Any:
    config = LoraConfig(r=2, target_modules=TARGETS[family], init_lora_weights=False, fan_in_fan_out=family == "gpt2")
    torch.manual_seed(1)
    return get_peft_model(backbone(family), config).eval()


@pytest.mark.parametrize("family", TARGETS)
def test_a_memory_above_a_lora_is_a_memory_above_the_merged_weights(family: str) -> None:
    model = with_lora(family)
    merged = copy.deepcopy(model).merge_and_unload()
    results = []
    for one in (model, merged):
        torch.manual_seed(3)
        deltamem.attach(one, ALL_HEADS)
        enliven(one)
        step = Step(live_state(one, 2))
        with torch.no_grad():
            results.append((one(tokens(2, 9), memory=step).logits, step.new_state))
        cache = deltamem.memory_cache(one, live_state(one, 2))
        options: dict[str, Any] = {"past_key_values": cache, "max_new_tokens": 5, "do_sample": False}
        results.append((one.generate(input_ids=tokens(2, 9), **options), cache.memory))
    torch.testing.assert_close(results[0][0], results[2][0], rtol=1e-4, atol=1e-4)
    assert_same_state(results[0][1], results[2][1], 1e-4)
    assert torch.equal(results[1][0], results[3][0])
    assert_same_state(results[1][1], results[3][1], 1e-4)


def test_a_lora_is_frozen_and_given_back() -> None:
    model = with_lora("qwen3")
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        bare = model(input_ids=tokens(2, 9)).logits
        deltamem.attach(model, DeltaMemConfig(init="zero"))
        assert torch.equal(model(input_ids=tokens(2, 9)).logits, bare)
    assert all(".adapters." in name for name, p in model.named_parameters() if p.requires_grad)
    deltamem.detach(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens(2, 9)).logits, bare)


def test_a_memory_on_int8_weights() -> None:
    model, ids = backbone(), tokens(2, 9)
    quantize_(model, Int8WeightOnlyConfig())
    own = model.model.layers[0].self_attn.q_proj.weight.dequantize().float()
    with torch.no_grad():
        bare = model(ids).logits
        deltamem.attach(model, DeltaMemConfig(init="zero"), name="zero")
        assert torch.equal(model(ids).logits, bare)
        deltamem.attach(model, name="default")
        (delta, *_) = (m.named_parts()["delta_q"] for m in deltamem.attached(model).memories())
        torch.testing.assert_close(delta, 0.05 * own[:, :8] / own[:, :8].norm(dim=0))
        enliven(model)
        state = live_state(model, 2)
        whole, cache = Step(state), deltamem.memory_cache(model, state)
        wanted = model(ids, memory=whole).logits
        found = torch.cat([model(one, past_key_values=cache).logits for one in ids.split(1, dim=1)], 1)
    assert not torch.allclose(wanted, bare, atol=1e-2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert_same_state(cache.memory, whole.new_state, 1e-4)
    deltamem.detach(model)
    assert torch.equal(model(ids).logits, bare)


class PackedLinear(nn.Module):
    """A quantised linear layer that keeps integers in buffers and no weight of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("scale", linear.weight.detach().abs().amax(1, keepdim=True) / 127)
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale)


class Flat(Tensor):
    """A weight like those of some quantised layers, whose dequantize gives another shape than the layer's."""

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor).flatten()[None]


class Plain(Tensor):
    """A weight of a class of its own, with nothing to dequantise."""


def test_only_a_weight_of_the_layers_shape_is_taken() -> None:
    for kind in (Flat, Plain):
        model = backbone("llama")
        own = [block.self_attn.q_proj.weight.detach().clone() for block in model.model.layers]
        for block, weight in zip(model.model.layers, own, strict=True):
            block.self_attn.q_proj.weight = nn.Parameter(weight.as_subclass(kind), requires_grad=False)
        if kind is Flat:
            with pytest.raises(ValueError, match=r"q_proj \(Linear\) does not give its weight"):
                deltamem.attach(model)
        else:
            delta = deltamem.attach(model).memories()[1].named_parts()["delta_q"]
            torch.testing.assert_close(delta, 0.05 * own[1][:, :8] / own[1][:, :8].norm(dim=0))


def test_weights_that_cannot_be_read_are_named_and_need_no_reading() -> None:
    model = backbone("llama")
    for block in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(block.self_attn, name, PackedLinear(getattr(block.self_attn, name)))
    with pytest.raises(ValueError, match=r"layers.0.self_attn.q_proj \(PackedLinear\).*init='random' or init='zero'"):
        deltamem.attach(model)
    deltamem.attach(model, ALL_HEADS)
    enliven(model)
    with torch.no_grad():
        live = model(tokens(2, 9), memory=Step(live_state(model, 2))).logits
        with deltamem.disabled(model):
            assert not torch.allclose(model(tokens(2, 9)).logits, live, atol=1e-2)
