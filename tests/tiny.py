"""Small random backbones of every family, and adapters whose memories are loud enough to see."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

import deltamem

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_SIZES: dict[str, Any] = {
    **SMALL,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def _sized(config: type[PreTrainedConfig], **more: Any) -> Callable[[], PreTrainedConfig]:
    fields = {name: value for name, value in {**_SIZES, **more}.items() if value is not None}
    return lambda: config(**fields)


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2": _sized(Qwen2Config),
    "qwen3": _sized(Qwen3Config, head_dim=16),
    "qwen3_moe": _sized(Qwen3MoeConfig, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24),
    "llama": _sized(LlamaConfig),
    "mistral": _sized(MistralConfig, sliding_window=9),
    "smollm3": _sized(SmolLM3Config),
    "gemma2": _sized(Gemma2Config, head_dim=8, sliding_window=9, query_pre_attn_scalar=8),
    "gemma3": _sized(Gemma3TextConfig, head_dim=8, sliding_window=9, query_pre_attn_scalar=8),
    "phi": _sized(PhiConfig),
    "phi3": _sized(Phi3Config),
    "olmo2": _sized(Olmo2Config),
    "granite": _sized(GraniteConfig),
    "gpt_neox": _sized(GPTNeoXConfig, rotary_pct=0.5, num_key_value_heads=None),
    "gpt2": _sized(GPT2Config, num_key_value_heads=None),
    "gpt_neo": lambda: GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global", "local", "global"], 1]],
        window_size=9,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


def backbone(
    family: str = "qwen3", *, attention: str | None = None, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A random model of ``family``, the same at every call; its attention is SDPA where it has that."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation=attention, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


def enliven(model: torch.nn.Module, seed: int = 1) -> None:
    """Gives every tensor of the active adapter random values, so that nothing it does is negligible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for memory in deltamem.attached(model).memories():
            for name, parameter in memory.named_parameters():
                spread = 0.3 if name in ("projection", "heads") else 1.0
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator).to(parameter))


def adapted(family: str = "qwen3", *, attention: str | None = None, **config: Any) -> PreTrainedModel:
    """A random backbone with one loud adapter: rank 4, all four heads, unless ``config`` says otherwise."""
    model = backbone(family, attention=attention)
    fields: dict[str, Any] = {"rank": 4, "alpha": 4.0, "heads": ("q", "k", "v", "o"), **config}
    deltamem.attach(model, deltamem.DeltaMemConfig(**fields))
    enliven(model)
    return model


def tokens(batch: int, length: int, seed: int = 2) -> Tensor:
    """Random token ids ``[batch, length]`` without the special ones."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def live_state(model: torch.nn.Module, batch: int = 1, seed: int = 3) -> deltamem.MemoryState:
    """A memory that holds something: a state with random matrices."""
    empty = deltamem.new_state(model, batch)
    generator = torch.Generator().manual_seed(seed)
    states = tuple(0.5 * torch.randn(s.shape, generator=generator) for s in empty.states)
    return replace(empty, states=states)


def assert_same_state(a: deltamem.MemoryState, b: deltamem.MemoryState, tolerance: float = 1e-5) -> None:
    """Every tensor of two memories agrees."""
    torch.testing.assert_close(a.tensors(), b.tensors(), rtol=tolerance, atol=tolerance)
