"""One decoded token's whole dealing with a memory in one compiled call, for CPUs.

With the backbone's weights streaming through the caches between two layers, each operator of torch costs ten times what
it does in a loop of its own, and the twenty that surround one token's scan cost more than all the arithmetic.
"""
# what is compiled gets its types from the signature
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backends import MOST, unwatched

ROWS = 8
"""The largest batch: for more rows a product of matrices is the faster way to project and to correct."""

RULES = ("standard", "lambda_outside", "no_lambda", "hebbian", "accumulate")


class Form(NamedTuple):
    """What fixes the arithmetic of a token: the shape of its memory, and its configuration's choices as numbers."""

    states: int
    rank: int
    rowwise_gates: bool
    coupled_gates: bool
    normalize_qk: bool
    rule: int
    learned_gates: bool
    gain: float
    fixed_gate: float


def serves(tensor: Tensor, rank: int) -> bool:
    """Whether `token` may stand in for the operators: on a CPU, few rows, a small R, and nothing that watches the call.

    `tensor` is `[B]`.
    """
    return unwatched(tensor) and rank <= MOST and len(tensor) <= ROWS


def token(
    hidden: Tensor,
    projection: Tensor,
    bias: Tensor | None,
    heads: Tensor,
    state: Tensor,
    mask: Tensor | None,
    form: Form,
    *,
    writes: bool,
) -> tuple[Tensor, Tensor]:
    """Corrections `[B, 1, C]`, and the state `[B, N, R, R]`, a new one if the token `writes`; all float32.

    `hidden` is the layer's input `[B, 1, D]`. `projection` `[P, D]` has the rows q, k, v, write gate, keep gate, `bias`
    `[G]` is that of the gates, and `heads` `[C, N·R]` makes corrections of what was read, times `form.gain`; all three
    are float32 and contiguous. Where gates are not learned there is no `bias`, and a token writes by
    `form.fixed_gate`. `mask` is bool `[B, 1]`.
    """
    hidden, state = hidden.float().contiguous(), state.contiguous()
    shown = None if mask is None else mask.contiguous()
    corrections = hidden.new_empty(len(hidden), 1, len(heads))
    final = torch.empty_like(state) if writes else state
    scratch = hidden.new_empty(len(projection) + form.states * form.rank)
    _kernel()(
        hidden.data_ptr(),
        projection.data_ptr(),
        None if bias is None else bias.data_ptr(),
        heads.data_ptr(),
        state.data_ptr(),
        None if shown is None else shown.data_ptr(),
        scratch.data_ptr(),
        corrections.data_ptr(),
        final.data_ptr(),
        form.gain,
        form.fixed_gate,
        len(hidden),
        hidden.shape[-1],
        len(projection),
        len(heads),
        shown is not None,
        writes,
        *form[:-2],
    )
    return corrections, final


@functools.cache
def _kernel() -> Callable[..., None]:
    import numpy as np
    from numba import cfunc, njit, types

    from .cpu_vector import FLOATS, stack

    one, zero, floor = np.float32(1), np.float32(0), np.float32(1e-6)

    # A sum may be taken in any order, or it would not be taken in vectors.
    @njit(types.void(FLOATS, FLOATS, types.int64, FLOATS, *[types.int64] * 3), fastmath={"contract", "reassoc", "nsz"})
    def product(matrix, vector, start, result, to, rows, columns):
        for row in range(rows):
            total = zero
            for column in range(columns):
                total += matrix[row * columns + column] * vector[start + column]
            result[to + row] = total

    @njit(types.void(FLOATS, types.int64, types.int64, types.int64, FLOATS), fastmath={"contract"})
    def address(projected, start, size, normalized, result):
        squares = zero
        for j in range(size):
            result[j] = projected[start + j]
            if normalized:
                result[j] = math.tanh(result[j])
                squares += result[j] * result[j]
        if normalized:
            length = max(math.sqrt(squares), floor)
            for j in range(size):
                result[j] /= length

    def kernel(
        hidden, projection, bias, heads, state, mask, projected, corrections, final, gain, fixed,
        B, D, P, C, masked, writes, N, R, rowwise, coupled, normalized, rule, learned,
    ):  # fmt: skip
        query, key = stack(MOST), stack(MOST)
        W = N * R
        G = W if rowwise else N
        for b in range(B):
            if masked and mask[b] == 0:
                for i in range(C):
                    corrections[b * C + i] = zero
                if writes:
                    for i in range(W * R):
                        final[b * W * R + i] = state[b * W * R + i]
                continue
            product(projection, hidden, b * D, projected, 0, P if writes else W, D)
            for row in range(W):
                if row % R == 0:
                    address(projected, row, R, normalized, query)
                    if writes:
                        address(projected, W + row, R, normalized, key)
                at = (b * W + row) * R
                read = zero
                for j in range(R):
                    read += state[at + j] * query[j]
                projected[P + row] = gain * read
                if not writes:
                    continue
                gate = row if rowwise else row // R
                write = fixed
                if learned:
                    write = one / (one + math.exp(-(projected[3 * W + gate] + bias[gate])))
                keep, erase = one - write, write
                if not coupled:
                    keep = one / (one + math.exp(-(projected[3 * W + G + gate] + bias[G + gate])))
                if rule == 1:
                    erase = keep * write
                elif rule == 2 or rule == 4:
                    keep = one
                if rule >= 3:
                    erase = zero
                held = zero
                for j in range(R):
                    held += state[at + j] * key[j]
                new = write * projected[2 * W + row] - erase * held
                for j in range(R):
                    final[at + j] = keep * state[at + j] + new * key[j]
            product(heads, projected, P, corrections, b * C, C, W)

    flags = (types.int64,) * 13
    signature = types.void(*[FLOATS] * 5, types.CPointer(types.uint8), *[FLOATS] * 3, *[types.float32] * 2, *flags)
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
    try:
        compiled: Any = cfunc(signature, cache=True, **options)(kernel)
    except (RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written
        compiled = cfunc(signature, **options)(kernel)
    pointers = [ctypes.c_void_p] * 9
    return ctypes.CFUNCTYPE(None, *pointers, *[ctypes.c_float] * 2, *[ctypes.c_int64] * 13)(compiled.address)
