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

from .backends import unwatched

MOST = 128
"""The largest R."""

RULES = ("standard", "lambda_outside", "no_lambda")


class Form(NamedTuple):
    """What fixes the arithmetic of a token: the shape of its memory, and its configuration's choices as numbers."""

    states: int
    rank: int
    rowwise_gates: bool
    coupled_gates: bool
    normalize_qk: bool
    rule: int
    gain: float


def serves(tensor: Tensor, rank: int) -> bool:
    """Whether `token` may stand in for the operators: on a CPU, with a small R, and nothing that watches the call."""
    return unwatched(tensor) and rank <= MOST


def token(projected: Tensor, bias: Tensor, state: Tensor, mask: Tensor | None, form: Form) -> tuple[Tensor, Tensor]:
    """Reads `[B, 1, N·R]`, times `form.gain`, and the new state `[B, N, R, R]`, both float32.

    `projected` is float32 `[B, 1, P]` and contiguous: the token's projections in the order q, k, v, write gate, keep
    gate. `bias` is that of the gates, `state` float32, and `mask` bool `[B, 1]`.
    """
    batch, _, width = projected.shape
    bias, state = bias.float(), state.contiguous()
    shown = None if mask is None else mask.contiguous()
    reads = projected.new_empty(batch, 1, form.states * form.rank)
    final = torch.empty_like(state)
    _kernel()(
        projected.data_ptr(),
        bias.data_ptr(),
        state.data_ptr(),
        None if shown is None else shown.data_ptr(),
        reads.data_ptr(),
        final.data_ptr(),
        form.gain,
        batch,
        width,
        shown is not None,
        *form[:-1],
    )
    return reads, final


@functools.cache
def _kernel() -> Callable[..., None]:
    import numpy as np
    from numba import cfunc, types

    from .cpu_vector import FLOATS, stack

    one, zero, floor = np.float32(1), np.float32(0), np.float32(1e-6)

    def kernel(
        projected, bias, state, mask, reads, final, gain, B, P, masked, N, R, rowwise, coupled, normalized, rule
    ):  # fmt: skip
        q, k = stack(MOST), stack(MOST)
        W = N * R
        G = W if rowwise else N
        for b in range(B):
            for n in range(N):
                at, to, first = b * P + n * R, b * W + n * R, (b * N + n) * R * R
                if masked and mask[b] == 0:
                    for i in range(R):
                        reads[to + i] = zero
                    for i in range(R * R):
                        final[first + i] = state[first + i]
                    continue
                q_squares, k_squares = zero, zero
                for j in range(R):
                    q[j], k[j] = projected[at + j], projected[at + W + j]
                    if normalized:
                        q[j], k[j] = math.tanh(q[j]), math.tanh(k[j])
                        q_squares += q[j] * q[j]
                        k_squares += k[j] * k[j]
                if normalized:
                    q_length, k_length = max(math.sqrt(q_squares), floor), max(math.sqrt(k_squares), floor)
                    for j in range(R):
                        q[j] /= q_length
                        k[j] /= k_length
                for i in range(R):
                    gate = n * R + i if rowwise else n
                    write = one / (one + math.exp(-(projected[b * P + 3 * W + gate] + bias[gate])))
                    keep, erase = one - write, write
                    if not coupled:
                        keep = one / (one + math.exp(-(projected[b * P + 3 * W + G + gate] + bias[G + gate])))
                    if rule == 1:
                        erase = keep * write
                    elif rule == 2:
                        keep = one
                    read, held = zero, zero
                    for j in range(R):
                        read += state[first + i * R + j] * q[j]
                        held += state[first + i * R + j] * k[j]
                    reads[to + i] = gain * read
                    new = write * projected[at + 2 * W + i] - erase * held
                    for j in range(R):
                        final[first + i * R + j] = keep * state[first + i * R + j] + new * k[j]

    flags = (types.int64,) * 9
    signature = types.void(*[FLOATS] * 3, types.CPointer(types.uint8), *[FLOATS] * 2, types.float32, *flags)
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
    try:
        compiled: Any = cfunc(signature, cache=True, **options)(kernel)
    except (RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written
        compiled = cfunc(signature, **options)(kernel)
    pointers = [ctypes.c_void_p] * 6
    return ctypes.CFUNCTYPE(None, *pointers, ctypes.c_float, *[ctypes.c_int64] * 9)(compiled.address)
