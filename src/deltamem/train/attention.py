"""Attention of short texts on a CPU, in blocks of queries.

With products in bfloat16, in which adapters are trained, PyTorch's fused kernel takes up to seven times as long there,
most for many short texts (``benchmarks/train_step.py --attention``). In float32 it is as fast, or faster, and is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

# A block sees only the keys up to its end, so half of all products are never computed. For the backward pass each token
# keeps its weights, six bytes a head and key; beyond this many heads times tokens the fused kernel takes over.
_MOST = 2048
_BLOCK = 128
_NAME = "deltamem_blocks"
# What a model may ask for beyond the causal product.
_CHANGING = ("is_causal", "position_bias", "cache", "softcap", "s_aux")


@contextmanager
def in_blocks(base: PreTrainedModel) -> Iterator[None]:
    """Within it, a model on a CPU that attends by PyTorch's fused kernel does so in blocks where that is faster.

    The model is told and not PyTorch, whose choice of kernels is the whole process's: of two threads with a model each,
    the one that leaves last would put back what it found, the other's choice.
    """
    before = base.config._attn_implementation
    # Layers that are checkpointed one by one would be recomputed outside, without the choice made here.
    if before != "sdpa" or base.is_activation_checkpointing:
        yield
        return
    base.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of texts on themselves, without dropout.

    Args:
        query: ``[B, H, T, D]``.
        key: ``[B, K, T, D]``, where K divides H: each serves H/K heads in a row.
        value: ``[B, K, T, E]``.
        scale: of the products.

    Returns:
        ``[B, T, H, E]``.
    """
    rows, heads, length, width = query.shape
    shared = heads // key.shape[1]
    query = (query * scale).reshape(rows, -1, shared, length, width)
    key = key.transpose(-1, -2)
    parts = []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        later = query.new_full((stop - start, stop), -torch.inf).triu(start + 1).repeat(shared, 1)
        scores = (query[:, :, :, start:stop].flatten(2, 3) @ key[..., :stop]).add_(later)
        shares = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        parts.append((shares @ value[:, :, :stop]).unflatten(2, (shared, -1)))
    return torch.cat(parts, 3).flatten(1, 2).transpose(1, 2).contiguous()


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it; what is not plainly causal goes to the fused attention."""
    short = query.shape[2] == key.shape[2] <= _MOST // query.shape[1]
    causal = attention_mask is None and getattr(module, "is_causal", True)
    plain = causal and not dropout and all(others.get(name) is None for name in _CHANGING)
    if short and plain and query.device.type == "cpu" and _in_bfloat16(query):
        return attend(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    fused = AttentionInterface()["sdpa"]
    result: tuple[Tensor, None] = fused(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
    )
    return result


def _in_bfloat16(query: Tensor) -> bool:
    """Whether products are, and not only results."""
    allowed = torch.get_float32_matmul_precision() == "medium" or torch.is_autocast_enabled("cpu")
    return query.dtype == torch.bfloat16 or allowed


AttentionInterface.register(_NAME, _forward)
AttentionMaskInterface.register(_NAME, sdpa_mask)
