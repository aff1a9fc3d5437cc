"""The definition of the scan: the token loop of docs/mechanism.md ("Per token"), in the fewest lines."""

import torch
from torch import Tensor

from .formulas import step
from .inputs import ScanInputs


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
