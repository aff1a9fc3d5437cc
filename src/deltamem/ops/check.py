"""What the operator accepts, said once: argument checks, and masking by neutral tokens."""

from typing import NoReturn

import torch
from torch import Tensor

NAMES = ("q", "k", "v", "keep", "erase", "write", "state")


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None,
) -> None:
    """Accept q, k, v and gates [B, T, N, R], a state [B, N, R, R] and a bool mask [B, T] or None.

    Raises ValueError naming the argument that differs and what was wanted.
    """
    shape = q.shape
    if len(shape) != 4:
        raise ValueError(f"scan: q must be [B, T, N, R], got shape {list(shape)}")
    batch, length, states, rank = shape
    for name, x in zip(NAMES, (q, k, v, keep, erase, write, state), strict=True):
        wanted = (batch, states, rank, rank) if x is state else shape
        if x.shape != wanted:
            _refuse(name, f"shape {list(wanted)}", f"{list(x.shape)}")
        if not x.dtype.is_floating_point:
            _refuse(name, "a floating dtype", f"{x.dtype}")
        if x.device != q.device:
            _refuse(name, f"device {q.device}, as q", f"{x.device}")
    if rank == 0:
        raise ValueError("scan: R must be at least 1")
    if mask is not None:
        if mask.shape != (batch, length):
            _refuse("mask", f"shape {[batch, length]}", f"{list(mask.shape)}")
        if mask.dtype != torch.bool:
            _refuse("mask", "dtype torch.bool (True = real token)", f"{mask.dtype}")
        if mask.device != q.device:
            _refuse("mask", f"device {q.device}, as q", f"{mask.device}")


def mask_out(
    mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor, keep: Tensor, erase: Tensor, write: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Replace masked tokens, [B, T, N, R] each, by ones that read zeros and leave the state as it was."""
    if mask is None:
        return q, k, v, keep, erase, write
    masked = ~mask[:, :, None, None]
    q, k, v, erase, write = (x.masked_fill(masked, 0.0) for x in (q, k, v, erase, write))
    return q, k, v, keep.masked_fill(masked, 1.0), erase, write


def _refuse(name: str, wanted: str, got: str) -> NoReturn:
    raise ValueError(f"scan: {name} must have {wanted}, got {got}")
