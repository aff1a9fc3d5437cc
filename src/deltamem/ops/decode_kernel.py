"""The loop of `decode`, compiled by numba for one update rule; imported at first use, as numba takes a while.

It walks the layer's token as `DeltaMemory.forward` does and takes every formula from `formulas` and from the rule.
"""
# what is compiled gets its types from the signature
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import ctypes
import inspect
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import cfunc, njit, types
from numba.core.errors import NumbaError
from numba.extending import overload, register_jitable

from .backends import MOST
from .cpu_vector import FLOATS, stack
from .formulas import bounded, gate, scaled, step

_ONE, _ZERO = np.float32(1), np.float32(0)


class RuleError(ValueError):
    """An update rule that does more than the arithmetic of numbers."""


@overload(torch.tanh)
def _tanh(x):
    return lambda x: math.tanh(x)


@overload(torch.sigmoid)
def _sigmoid(x):
    return lambda x: _ONE / (_ONE + math.exp(-x))


@overload(torch.clamp)
def _clamp(x, least):
    return lambda x, least: max(x, np.float32(least))


for formula in (bounded, gate, scaled, step):
    register_jitable(formula)


# A sum may be taken in any order, or it would not be taken in vectors.
@njit(fastmath={"contract", "reassoc", "nsz"})
def _product(matrix, vector, start, result, to, rows, columns):
    for row in range(rows):
        total = _ZERO
        for column in range(columns):
            total += matrix[row * columns + column] * vector[start + column]
        result[to + row] = total


@njit(fastmath={"contract"})
def _address(projected, start, size, normalized, result):
    squares = _ZERO
    for j in range(size):
        result[j] = projected[start + j]
        if normalized:
            result[j] = bounded(result[j])
            squares += result[j] * result[j]
    if normalized:
        length = math.sqrt(squares)
        for j in range(size):
            result[j] = scaled(result[j], length)


def compiled(rule: Callable[[Any, Any], tuple[Any, Any, Any]]) -> Callable[..., None]:
    """The compiled token of `decode.token`; it releases the GIL.

    Raises RuleError for a rule that numba does not take.
    """
    register_jitable(rule)
    written = _written(rule)

    def kernel(
        hidden, projection, bias, heads, state, mask, projected, corrections, final, gain, fixed,
        B, D, P, C, masked, writes, N, R, rowwise, coupled, normalized, learned,
    ):  # fmt: skip
        _ = written  # what is kept on disk is told apart by this
        query, key = stack(MOST), stack(MOST)
        W = N * R
        G = W if rowwise else N
        for b in range(B):
            if masked and mask[b] == 0:
                for i in range(C):
                    corrections[b * C + i] = _ZERO
                if writes:
                    for i in range(W * R):
                        final[b * W * R + i] = state[b * W * R + i]
                continue
            _product(projection, hidden, b * D, projected, 0, P if writes else W, D)
            for row in range(W):
                if row % R == 0:
                    _address(projected, row, R, normalized, query)
                    if writes:
                        _address(projected, W + row, R, normalized, key)
                at = (b * W + row) * R
                read = _ZERO
                for j in range(R):
                    read += state[at + j] * query[j]
                projected[P + row] = gain * read
                if not writes:
                    continue
                place = row if rowwise else row // R
                beta = gate(projected[3 * W + place], bias[place]) if learned else fixed
                kept = _ONE - beta
                if not coupled:
                    kept = gate(projected[3 * W + G + place], bias[G + place])
                keep, erase, write = rule(kept, beta)
                keep, erase, write = np.float32(keep), np.float32(erase), np.float32(write)
                held = _ZERO
                for j in range(R):
                    held += state[at + j] * key[j]
                for j in range(R):
                    final[at + j] = step(state[at + j], key[j], held, projected[2 * W + row], keep, erase, write)
            _product(heads, projected, P, corrections, b * C, C, W)

    flags = (types.int64,) * 12
    signature = types.void(*[FLOATS] * 5, types.CPointer(types.uint8), *[FLOATS] * 3, *[types.float32] * 2, *flags)
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
    try:
        try:
            done: Any = cfunc(signature, cache=True, **options)(kernel)
        except (RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written
            done = cfunc(signature, **options)(kernel)
    except NumbaError as error:
        raise RuleError(str(error).strip().splitlines()[-1]) from None
    pointers = [ctypes.c_void_p] * 9
    return ctypes.CFUNCTYPE(None, *pointers, *[ctypes.c_float] * 2, *[ctypes.c_int64] * 12)(done.address)


def _written(rule: Callable[..., Any]) -> int:
    """A number that differs where what is compiled differs: a kernel on disk is found by it."""
    parts = [rule.__code__.co_code, repr(rule.__code__.co_consts).encode()]
    parts += [inspect.getsource(formula).encode() for formula in (bounded, gate, scaled, step)]
    return zlib.crc32(b"\n".join(parts))
