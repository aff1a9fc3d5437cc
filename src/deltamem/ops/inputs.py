"""What a scan takes, said once: its arguments, their checks, and masking by neutral tokens."""

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor


class ScanInputs(NamedTuple):
    """The arguments of a scan; `deltamem.ops.scan` says what each is.

    Attributes:
        q: [B, T, N, R].
        k: [B, T, N, R].
        v: [B, T, N, R].
        keep: [B, T, N, R].
        erase: [B, T, N, R].
        write: [B, T, N, R].
        state: [B, N, R, R].
        mask: bool [B, T], or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    keep: Tensor
    erase: Tensor
    write: Tensor
    state: Tensor
    mask: Tensor | None = None

    def check(self) -> None:
        """Accepts floating tensors of these shapes on one device.

        Raises ValueError naming the argument that differs and what was wanted.
        """
        q, mask, shape = self.q, self.mask, self.q.shape
        if len(shape) != 4:
            raise ValueError(f"scan: q must be [B, T, N, R], got shape {list(shape)}")
        batch, length, states, rank = shape
        for name, x in zip(self._fields, self[:7], strict=False):
            wanted = (batch, states, rank, rank) if name == "state" else shape
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

    def unmasked(self) -> "ScanInputs":
        """The same scan without a mask, in float32, or float64 if the state is.

        Masked tokens are replaced by ones that read zeros and leave the state as it was.
        """
        dtype = torch.float64 if self.state.dtype == torch.float64 else torch.float32
        q, k, v, keep, erase, write, state = (x.to(dtype) for x in self[:7])
        if self.mask is not None:
            masked = ~self.mask[:, :, None, None]
            q, k, v, erase, write = (x.masked_fill(masked, 0.0) for x in (q, k, v, erase, write))
            keep = keep.masked_fill(masked, 1.0)
        return ScanInputs(q, k, v, keep, erase, write, state)


def _refuse(name: str, wanted: str, got: str) -> NoReturn:
    raise ValueError(f"scan: {name} must have {wanted}, got {got}")
