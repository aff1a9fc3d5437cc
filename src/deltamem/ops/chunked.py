"""The scan in plain PyTorch, by chunks of tokens: for devices without a kernel, and for double backward.

Row i of a state evolves on its own: s_t = keep_t s_{t-1} + w_t k_t, w_t = write_t v_t - erase_t (s_{t-1} . k_t). Inside
a chunk of C tokens that begins with s_0, and with decay_tj the product of keep_m over j < m < t,

    (I + L) w = write v - erase decay_t0 (k_t . s_0),    L_tj = erase_t decay_tj (k_t . k_j) for j < t,

so w is an affine function of s_0 (the WY form of DeltaNet and Gated DeltaNet, here with a gate per row). All chunks are
solved at once; then one affine map a chunk carries s_0 on.

The products are taken as running products, not as exponentials of sums of logarithms: a gate of exactly 0 then needs no
clamp, and its gradient, which a clamp would lose, is right.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from .inputs import ScanInputs

CHUNK = 16
SEGMENT = 512
"""Tokens solved at once; bounds the memory: R * R floats a token inside a segment, one state a segment outside."""


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Reads [B, T, N, R] and the final state [B, N, R, R]: `reference.scan`, to rounding, and as differentiable."""
    *tokens, state, _ = inputs.unmasked()
    reads = [tokens[0][:, :0]]
    with torch.autocast(inputs.q.device.type, enabled=False):
        for at in range(0, inputs.q.shape[1], SEGMENT):
            read, state = _recomputed(*(x[:, at : at + SEGMENT] for x in tokens), state)
            reads.append(read)
    return torch.cat(reads, 1), state


def _recomputed(*segment: Tensor) -> tuple[Tensor, Tensor]:
    """`_segment`, keeping only its inputs for the backward pass."""
    if not torch.is_grad_enabled():
        return _segment(*segment)
    result: tuple[Tensor, Tensor] = checkpoint(_segment, *segment, use_reentrant=False, preserve_rng_state=False)
    return result


def _segment(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, erase: Tensor, write: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One segment of tokens [B, T, N, R], T > 0, from a state [B, N, R, R]."""
    length = q.shape[1]
    # Below, i is a row of the state, j and t are tokens of a chunk, c is a chunk, a and b are columns.
    q, k = (_chunks(x, 0.0) for x in (q, k))  # [B, N, c, C, R]
    v, erase, write = (_chunks(x, 0.0).mT for x in (v, erase, write))  # [B, N, c, R, C]
    decay = _decay(_chunks(keep, 1.0).mT)  # [B, N, c, R, C + 1, C + 1]
    from_start, from_token = decay[..., :-1, 0], decay[..., :-1, 1:]  # [.., R, C], [.., R, C, C]
    to_end, whole = decay[..., -1, 1:], decay[..., -1, 0]  # [.., R, C], [.., R]

    overlap = (k @ k.mT)[:, :, :, None]  # [B, N, c, 1, C, C]
    lower = erase[..., None] * from_token * overlap  # [B, N, c, R, C, C]
    wanted = (write * v)[..., None]  # [B, N, c, R, C, 1]
    held = (erase * from_start)[..., None] * k[:, :, :, None]  # [B, N, c, R, C, R]
    solved = torch.linalg.solve_triangular(lower, torch.cat([wanted, held], -1), upper=False, unitriangular=True)
    own, response = solved[..., 0], solved[..., 1:]  # w = own - response @ s_0

    into_end = to_end[..., None] * k[:, :, :, None]  # [B, N, c, R, C, R]
    moved = -into_end.mT @ response + torch.diag_embed(whole[..., None].expand_as(into_end[..., 0, :]))
    added = (into_end.mT @ own[..., None])[..., 0]  # [B, N, c, R, R]
    starts = []
    for chunk in range(moved.shape[2]):
        starts.append(state)
        state = (moved[:, :, chunk] @ state[..., None])[..., 0] + added[:, :, chunk]
    start = torch.stack(starts, 2)[..., None]  # [B, N, c, R, R, 1]

    w = own[..., None] - response @ start  # [B, N, c, R, C, 1]
    match = from_token * (q @ k.mT)[:, :, :, None]  # [B, N, c, R, C, C]
    reads = from_start[..., None] * (q[:, :, :, None] @ start) + match @ w  # [B, N, c, R, C, 1]
    return reads[..., 0].mT.flatten(2, 3).transpose(1, 2)[:, :length], state


def _chunks(x: Tensor, neutral: float) -> Tensor:
    """[B, T, N, R] -> [B, N, chunks, CHUNK, R], the last chunk filled up with neutral tokens."""
    x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % CHUNK), value=neutral)
    return x.reshape(x.shape[0], x.shape[1] // CHUNK, CHUNK, *x.shape[2:]).permute(0, 3, 1, 2, 4)


def _decay(keep: Tensor) -> Tensor:
    """The products of `keep` [.., C] between two tokens, [.., C + 1, C + 1].

    Entry [t, j + 1] is the product of keep_m over j < m < t, and entry [t, 0] that from the chunk's start; the others
    are zero.
    """
    size = keep.shape[-1] + 1
    unit = torch.eye(size, dtype=keep.dtype, device=keep.device)
    rows = [unit[0].expand(*keep.shape[:-1], size)]
    for t in range(size - 1):
        rows.append(rows[-1] * keep[..., t, None] + unit[t + 1])
    return torch.stack(rows, -2)
