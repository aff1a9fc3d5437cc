"""Attention in blocks of queries: the same numbers as PyTorch's fused kernel, wherever it takes its place."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from deltamem.train import attention
from deltamem.train.attention import attend, in_blocks

SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}


def heads(length: int, queries: int = 4, keys: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, length, count, 8, generator=generator).transpose(1, 2).requires_grad_()
        for count in (queries, keys, keys)
    )
    return q, k, v


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize("keys", [1, 2, 4])
def test_blocks_are_the_fused_attention_with_its_gradients(length: int, keys: int) -> None:
    inputs = heads(length, keys=keys)
    ours = attend(*inputs, scale=0.3)
    fused = F.scaled_dot_product_attention(*inputs, scale=0.3, is_causal=True, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours, fused)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    pairs = zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(fused, inputs, upstream), strict=True)
    for gradient, expected in pairs:
        torch.testing.assert_close(gradient, expected)


def test_bfloat16_is_weighed_in_float32() -> None:
    q, k, v = (tensor.detach().bfloat16() for tensor in heads(200))
    exact = attend(q.double(), k.double(), v.double(), scale=0.3)
    result = attend(q, k, v, scale=0.3)
    assert result.dtype == torch.bfloat16
    assert (result - exact).abs().max() < 0.03


def gemma() -> PreTrainedModel:
    # Layers of both kinds: the window is shorter than the text, which causal blocks would not notice.
    windows = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 3, **windows}
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **config)).eval()


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_attention_heads=4, num_key_value_heads=2)).eval()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that were attended in blocks."""
    found: list[int] = []

    def counted(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        found.append(query.shape[2])
        return attend(query, key, value, scale)

    monkeypatch.setattr(attention, "attend", counted)
    return found


@pytest.mark.parametrize("make", [gemma, llama])
@pytest.mark.parametrize("length", [20, 140])
def test_a_model_in_blocks_gives_what_it_gives_otherwise(calls: list[int], make: type, length: int) -> None:
    torch.manual_seed(0)
    model = make().bfloat16()
    ids = torch.randint(50, (2, length))
    expected = model(ids, use_cache=False).logits
    with in_blocks(model):
        found = model(ids, use_cache=False).logits
    assert calls
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert model.config._attn_implementation == "sdpa"


def test_only_products_in_bfloat16_are_in_blocks(calls: list[int]) -> None:
    model, ids = llama(), torch.zeros(1, 4, dtype=torch.int64)
    with in_blocks(model):
        model(ids, use_cache=False)
        assert not calls
        with torch.autocast("cpu", torch.bfloat16):
            model(ids, use_cache=False)
    assert calls == [4, 4]


def test_only_plainly_causal_layers_are_in_blocks(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = gemma().bfloat16()
    with in_blocks(model):
        model(torch.zeros(1, 20, dtype=torch.int64), use_cache=False)
        assert calls == [20]  # the full layer, and not the one with a window
        model(torch.zeros(1, 4, dtype=torch.int64), use_cache=False)
        assert calls == [20, 4, 4]  # no window is shorter than this text
        monkeypatch.setattr(attention, "_MOST", 4 * 3)
        model(torch.zeros(1, 4, dtype=torch.int64), use_cache=False)
        assert calls == [20, 4, 4]


def test_a_model_with_another_attention_keeps_it() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    with in_blocks(model):
        assert model.config._attn_implementation == "eager"
