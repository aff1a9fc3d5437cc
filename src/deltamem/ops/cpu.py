"""The compiled loop on CPU tensors: float32, contiguous, rows shared out over torch's threads."""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .inputs import ScanInputs

_SHARE = 1 << 18  # T * R * R multiply-adds a thread must have to do before waking it pays


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Reads [B, T, N, R] and the final state [B, N, R, R], float32 (see `deltamem.ops.scan`).

    Raises ValueError where R is larger than the kernels take.
    """
    from . import cpu_kernels

    batch, length, states, rank = inputs.q.shape
    kernel = cpu_kernels.forward(rank)
    plain = _plain(inputs)
    reads = plain.q.new_empty(batch, length, states, rank)
    final = plain.q.new_empty(batch, states, rank, rank)
    addresses = _addresses(*plain, reads, final)
    masked = plain.mask is not None

    def rows(start: int, stop: int) -> None:
        kernel(*addresses, masked, length, states, start, stop)

    _share(rows, batch * states, length * rank * rank)
    return reads, final


def backward(grad_reads: Tensor, grad_final: Tensor, inputs: ScanInputs) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, keep, erase, write [B, T, N, R] and state [B, N, R, R], float32.

    Recomputes the states from those at every 64th token, so nothing but the inputs need be kept from the forward pass.
    """
    from . import cpu_kernels

    batch, length, states, rank = inputs.q.shape
    kernel = cpu_kernels.backward(rank)
    plain = _plain(inputs)
    grads = [_floats(grad_reads), _floats(grad_final)]
    results = tuple(torch.empty_like(x) for x in plain[:7])
    addresses = _addresses(*plain, *grads, *results)
    masked = plain.mask is not None

    def rows(start: int, stop: int) -> None:
        scratch = torch.empty(cpu_kernels.scratch_floats(length, rank), dtype=torch.float32)
        kernel(*addresses, scratch.data_ptr(), masked, length, states, start, stop)

    _share(rows, batch * states, 4 * length * rank * rank)
    return results


def _plain(inputs: ScanInputs) -> ScanInputs:
    """The same in float32, contiguous."""
    mask = None if inputs.mask is None else inputs.mask.contiguous()
    return ScanInputs(*(_floats(x) for x in inputs[:7]))._replace(mask=mask)


def _floats(x: Tensor) -> Tensor:
    if x.dtype is torch.float32 and x.is_contiguous():
        return x
    return x.to(torch.float32).contiguous()


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in tensors]


def _share(work: Callable[[int, int], None], rows: int, cost: int) -> None:
    """Run `work(start, stop)` over all rows, on as many threads as torch may use and the cost a row justifies.

    Our own threads, not numba's: its default layer on a machine without TBB or OpenMP aborts the process when two
    Python threads enter it at once, and GNU OpenMP does so after a fork.
    """
    shares = min(torch.get_num_threads(), rows, max(1, rows * cost // _SHARE))
    if shares <= 1:
        work(0, rows)
        return
    ends = [rows * (i + 1) // shares for i in range(shares)]
    others = [_pool().submit(work, start, stop) for start, stop in itertools.pairwise(ends)]
    work(0, ends[0])
    for other in others:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="deltamem-scan")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork keeps the pool and not its threads
