"""The definition: the arithmetic of one token, and the scan as a loop over it (docs/mechanism.md, "Per token").

The layer uses the formulas of a token on tensors, and `decode` compiles them for numbers. They may only use `+ - * /`,
comparisons, and the functions of torch that `decode_kernel` has for numbers.
"""

import torch
from torch import Tensor

from .inputs import ScanInputs

FLOOR = 1e-6
"""The least length that an address is divided by."""


def bounded(raw: Tensor) -> Tensor:
    """A raw address, each entry in (-1, 1)."""
    return torch.tanh(raw)


def scaled(address: Tensor, length: Tensor) -> Tensor:
    """An address `[..., R]` divided by its length `[..., 1]`."""
    return address / torch.clamp(length, FLOOR)


def gate(raw: Tensor, bias: Tensor) -> Tensor:
    """A gate in (0, 1)."""
    return torch.sigmoid(raw + bias)


def step(state: Tensor, key: Tensor, held: Tensor, value: Tensor, keep: Tensor, erase: Tensor, write: Tensor) -> Tensor:
    """The entry i, j of a state after a token, from the entry before it, k_j, (S k)_i, v_i and the gates of row i."""
    return keep * state + (write * value - erase * held) * key


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Read and write a state token by token (arXiv 2605.12357, the delta rule with gates).

    Returns the reads [B, T, N, R] and the final state [B, N, R, R], in float32, or in float64 when the state is
    float64. Differentiable in every floating argument, to any order.
    """
    q, k, v, keep, erase, write, state, _ = inputs.unmasked()
    reads = [q[:, :0]]
    for t in range(q.shape[1]):
        q_t, k_t = q[:, t, :, None, :], k[:, t, :, None, :]  # [B, N, 1, R]
        gated = (x[:, t, :, :, None] for x in (v, keep, erase, write))  # [B, N, R, 1]
        reads.append((state * q_t).sum(-1)[:, None])
        state = step(state, k_t, (state * k_t).sum(-1, keepdim=True), *gated)
    return torch.cat(reads, 1), state
