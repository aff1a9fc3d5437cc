"""The token loop and its gradient, compiled by numba for one rank R; imported at first use, as numba takes a while.

A state is held transposed (`columns`: vector j is S[:, j]), so that S q = sum_j S[:, j] q[j] and the gates, which
scale rows, are lane by lane. The gradient also needs sums over rows; it holds a second copy by rows (vector i is
S[i, :]), which is cheaper than adding across lanes. Tokens are [B, T, N, R] and contiguous; `at` is where token t of
row (b, n) begins.
"""
# what is compiled gets its types from the signature in _compile
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cfunc, types

from .backends import MOST
from .cpu_vector import FLOATS, load, mul, mul_add, neg, spread, stack, store

BLOCK = 64
"""The gradient keeps one state every BLOCK tokens and recomputes those between."""

_MASK = types.CPointer(types.uint8)
_COUNTS = (types.int64,) * 5  # masked, T, N, first row, row after the last
_ZERO = np.float32(0)


@functools.cache
def forward(rank: int) -> Callable[..., None]:
    """The compiled loop; it releases the GIL.

    Its arguments: the addresses of q, k, v, keep, erase, write, state, mask, reads and final; whether there is a mask,
    T and N; the first row (b * N + n) to do, and the one to stop before.
    """
    size = _size(rank)

    def forward_kernel(q, k, v, keep, erase, write, state, mask, reads, final, masked, T, N, start, stop):
        columns = stack(size)
        for row in range(start, stop):
            b = row // N
            at = (b * T * N + row - b * N) * rank
            for i in range(rank):
                for j in range(rank):
                    columns[j * rank + i] = state[row * size + i * rank + j]
            for t in range(T):
                read = spread(_ZERO, rank)
                if masked == 0 or mask[b * T + t] != 0:
                    held = spread(_ZERO, rank)
                    for j in range(rank):
                        column = load(columns, j * rank, rank)
                        read = mul_add(column, spread(q[at + j], rank), read)
                        held = mul_add(column, spread(k[at + j], rank), held)
                    new = mul(load(write, at, rank), load(v, at, rank))
                    new = mul_add(neg(load(erase, at, rank)), held, new)
                    kept = load(keep, at, rank)
                    for j in range(rank):
                        column = mul(kept, load(columns, j * rank, rank))
                        store(columns, j * rank, mul_add(new, spread(k[at + j], rank), column))
                store(reads, at, read)
                at += N * rank
            for i in range(rank):
                for j in range(rank):
                    final[row * size + i * rank + j] = columns[j * rank + i]

    return _compile(forward_kernel, floats_before=7, floats_after=2)


@functools.cache
def backward(rank: int) -> Callable[..., None]:
    """The compiled gradient; it releases the GIL.

    Its arguments: the addresses of q, k, v, keep, erase, write, state, mask, the gradients of reads and final, the
    seven gradients to fill, and scratch of `scratch_floats` floats; then as `forward`.
    """
    size = _size(rank)
    stride = 2 * size + rank  # what is recomputed for a token: state by columns, by rows, and S k

    def backward_kernel(
        q, k, v, keep, erase, write, state, mask, grad_reads, grad_final,
        grad_q, grad_k, grad_v, grad_keep, grad_erase, grad_write, grad_state, scratch, masked, T, N, start, stop,
    ):  # fmt: skip
        columns, rows = stack(size), stack(size)
        grad_columns, grad_rows = stack(size), stack(size)
        new, grad_held = stack(rank), stack(rank)
        blocks = (T + BLOCK - 1) // BLOCK
        path = blocks * size
        for row in range(start, stop):
            b = row // N
            first = (b * T * N + row - b * N) * rank
            for i in range(rank):
                for j in range(rank):
                    columns[j * rank + i] = state[row * size + i * rank + j]
                    grad_rows[i * rank + j] = grad_final[row * size + i * rank + j]
                    grad_columns[j * rank + i] = grad_final[row * size + i * rank + j]

            for t in range(T):
                at = first + t * N * rank
                if t % BLOCK == 0:
                    for j in range(rank):
                        store(scratch, t // BLOCK * size + j * rank, load(columns, j * rank, rank))
                if masked == 0 or mask[b * T + t] != 0:
                    held = spread(_ZERO, rank)
                    for j in range(rank):
                        held = mul_add(load(columns, j * rank, rank), spread(k[at + j], rank), held)
                    added = mul(load(write, at, rank), load(v, at, rank))
                    added = mul_add(neg(load(erase, at, rank)), held, added)
                    kept = load(keep, at, rank)
                    for j in range(rank):
                        column = mul(kept, load(columns, j * rank, rank))
                        store(columns, j * rank, mul_add(added, spread(k[at + j], rank), column))

            for back in range(blocks):
                block = blocks - 1 - back
                end = min(T, (block + 1) * BLOCK)
                for i in range(rank):
                    for j in range(rank):
                        columns[j * rank + i] = scratch[block * size + j * rank + i]
                        rows[i * rank + j] = scratch[block * size + j * rank + i]

                for t in range(block * BLOCK, end):
                    at = first + t * N * rank
                    here = path + (t - block * BLOCK) * stride
                    if masked == 0 or mask[b * T + t] != 0:
                        held = spread(_ZERO, rank)
                        for j in range(rank):
                            column = load(columns, j * rank, rank)
                            store(scratch, here + j * rank, column)
                            store(scratch, here + size + j * rank, load(rows, j * rank, rank))
                            held = mul_add(column, spread(k[at + j], rank), held)
                        store(scratch, here + 2 * size, held)
                        added = mul(load(write, at, rank), load(v, at, rank))
                        added = mul_add(neg(load(erase, at, rank)), held, added)
                        store(new, 0, added)
                        kept, key = load(keep, at, rank), load(k, at, rank)
                        for j in range(rank):
                            column = mul(kept, load(columns, j * rank, rank))
                            store(columns, j * rank, mul_add(added, spread(k[at + j], rank), column))
                            line = mul(spread(keep[at + j], rank), load(rows, j * rank, rank))
                            store(rows, j * rank, mul_add(spread(new[j], rank), key, line))

                for ago in range(end - block * BLOCK):
                    t = end - 1 - ago
                    at = first + t * N * rank
                    here = path + (t - block * BLOCK) * stride
                    if masked != 0 and mask[b * T + t] == 0:
                        nothing = spread(_ZERO, rank)
                        store(grad_q, at, nothing)
                        store(grad_k, at, nothing)
                        store(grad_v, at, nothing)
                        store(grad_keep, at, nothing)
                        store(grad_erase, at, nothing)
                        store(grad_write, at, nothing)
                    else:
                        held = load(scratch, here + 2 * size, rank)
                        written, value = load(write, at, rank), load(v, at, rank)
                        erased, kept = load(erase, at, rank), load(keep, at, rank)
                        store(new, 0, mul_add(neg(erased), held, mul(written, value)))
                        to_new, to_keep = spread(_ZERO, rank), spread(_ZERO, rank)
                        to_k, to_q = spread(_ZERO, rank), spread(_ZERO, rank)
                        for j in range(rank):
                            column = load(grad_columns, j * rank, rank)
                            to_new = mul_add(column, spread(k[at + j], rank), to_new)
                            to_keep = mul_add(column, load(scratch, here + j * rank, rank), to_keep)
                            to_k = mul_add(load(grad_rows, j * rank, rank), spread(new[j], rank), to_k)
                        to_held = neg(mul(to_new, erased))
                        store(grad_held, 0, to_held)
                        to_read = load(grad_reads, at, rank)
                        key, query = load(k, at, rank), load(q, at, rank)
                        for j in range(rank):
                            line = load(scratch, here + size + j * rank, rank)
                            to_k = mul_add(line, spread(grad_held[j], rank), to_k)
                            to_q = mul_add(line, spread(grad_reads[at + j], rank), to_q)
                            column = mul(kept, load(grad_columns, j * rank, rank))
                            column = mul_add(to_held, spread(k[at + j], rank), column)
                            store(grad_columns, j * rank, mul_add(to_read, spread(q[at + j], rank), column))
                            line = mul(spread(keep[at + j], rank), load(grad_rows, j * rank, rank))
                            line = mul_add(spread(grad_held[j], rank), key, line)
                            store(grad_rows, j * rank, mul_add(spread(grad_reads[at + j], rank), query, line))
                        store(grad_q, at, to_q)
                        store(grad_k, at, to_k)
                        store(grad_v, at, mul(to_new, written))
                        store(grad_keep, at, to_keep)
                        store(grad_erase, at, neg(mul(to_new, held)))
                        store(grad_write, at, mul(to_new, value))

            for i in range(rank):
                store(grad_state, row * size + i * rank, load(grad_rows, i * rank, rank))

    return _compile(backward_kernel, floats_before=7, floats_after=10)


def _size(rank: int) -> int:
    if rank > MOST:
        raise ValueError(f"scan: the compiled loop takes R up to {MOST}, got {rank}; use backend='chunked'")
    return rank * rank


def scratch_floats(length: int, rank: int) -> int:
    """Floats of scratch that `backward` needs: a state every BLOCK tokens, and the path through one block."""
    return -(-length // BLOCK) * rank * rank + BLOCK * (2 * rank * rank + rank)


def _compile(function: Callable[..., None], floats_before: int, floats_after: int) -> Callable[..., None]:
    """Compile a kernel of `floats_before` float pointers, the mask, `floats_after` more and the counts."""
    signature = types.void(*[FLOATS] * floats_before, _MASK, *[FLOATS] * floats_after, *_COUNTS)
    try:
        compiled: Any = cfunc(signature, cache=True)(function)
    except (RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written
        compiled = cfunc(signature)(function)
    addresses = [ctypes.c_void_p] * (floats_before + 1 + floats_after)
    return ctypes.CFUNCTYPE(None, *addresses, *[ctypes.c_int64] * len(_COUNTS))(compiled.address)
