"""The definition of the scan: the token loop of docs/mechanism.md ("Per token"), in the fewest lines."""

import torch
from torch import Tensor

from .check import mask_out


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read and write a state token by token (arXiv 2605.12357, the delta rule with gates).

    `q, k, v, keep, erase, write` are [B, T, N, R], `state` is [B, N, R, R] and `mask` is bool [B, T].
    Returns the reads [B, T, N, R] and the final state [B, N, R, R], in float32, or in float64 when
    the state is float64. Differentiable in every floating argument, to any order.
    """
    dtype = torch.float64 if state.dtype == torch.float64 else torch.float32
    tokens = (x.to(dtype) for x in (q, k, v, keep, erase, write))
    q, k, v, keep, erase, write = mask_out(mask, *tokens)
    state = state.to(dtype)
    reads = [q[:, :0]]
    for t in range(q.shape[1]):
        q_t, k_t = q[:, t, :, None, :], k[:, t, :, None, :]  # [B, N, 1, R]
        v_t, keep_t, erase_t, write_t = (x[:, t, :, :, None] for x in (v, keep, erase, write))  # [B, N, R, 1]
        reads.append((state * q_t).sum(-1)[:, None])
        held = (state * k_t).sum(-1, keepdim=True)
        state = keep_t * state + (write_t * v_t - erase_t * held) * k_t
    return torch.cat(reads, 1), state
