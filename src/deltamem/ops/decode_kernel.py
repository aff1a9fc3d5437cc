"""The loops of `decode` and `packed`, compiled by numba for one update rule; imported at first use: it takes a while.

They walk the layer's token as `DeltaMemory.forward` does and take every formula from `reference` and from the rule.
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
from .packed import READS, WRITES
from .reference import bounded, gate, scaled, step

_ONE, _ZERO = np.float32(1), np.float32(0)
_FLAGS = types.CPointer(types.uint8)


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
def _address(projected, start, size, normalized, result, joins, adds, place):
    squares = _ZERO
    for j in range(size):
        result[j] = projected[start + j]
        if joins:
            result[j] += adds[place + j]
        if normalized:
            result[j] = bounded(result[j])
            squares += result[j] * result[j]
    if normalized:
        length = math.sqrt(squares)
        for j in range(size):
            result[j] = scaled(result[j], length)


@njit(fastmath={"contract"}, error_model="numpy")
def _token(
    projected, at, bias, state, before, final, after, stride, reads, out, writes, joins, adds, place, apart,
    rule, form, query, key,
):  # fmt: skip
    """One token: reads the state at `before` into `reads` at `out`; if it writes, puts the new state at `after`.

    `projected` at `at` holds what the layer projects the token to. There are `stride` numbers from one of the N
    matrices to the next. If it `joins`, `adds` at `place` is what the token before adds to its write address, with
    `apart` numbers from one of the N addresses to the next. `query` and `key` are scratch.
    """
    gain, fixed, N, R, rowwise, coupled, normalized, learned = form
    W = N * R
    G = W if rowwise else N
    for row in range(W):
        n, i = row // R, row % R
        if i == 0:
            _address(projected, at + row, R, normalized, query, False, adds, 0)
            if writes:
                _address(projected, at + W + row, R, normalized, key, joins, adds, place + n * apart)
        here, there = before + n * stride + i * R, after + n * stride + i * R
        read = _ZERO
        for j in range(R):
            read += state[here + j] * query[j]
        reads[out + row] = gain * read
        if not writes:
            continue
        own = row if rowwise else n
        beta = gate(projected[at + 3 * W + own], bias[own]) if learned else fixed
        kept = _ONE - beta
        if not coupled:
            kept = gate(projected[at + 3 * W + G + own], bias[G + own])
        keep, erase, write = rule(kept, beta)
        keep, erase, write = np.float32(keep), np.float32(erase), np.float32(write)
        held = _ZERO
        for j in range(R):
            held += state[here + j] * key[j]
        value = projected[at + 2 * W + row]
        for j in range(R):
            final[there + j] = step(state[here + j], key[j], held, value, keep, erase, write)


def compiled(rule: Callable[[Any, Any], tuple[Any, Any, Any]]) -> Callable[..., None]:
    """The compiled token of `decode.token`; it releases the GIL.

    If it `multiplies`, it projects and corrects too, and `projected` is scratch for one row with its reads behind.
    Otherwise `projected` holds all rows, and their reads are the `result`.

    Raises RuleError for a rule that numba does not take.
    """
    register_jitable(rule)
    written = _written(rule)

    def kernel(
        hidden, projection, bias, heads, state, adds, mask, projected, result, final, next_adds, gain, fixed,
        B, D, P, C, multiplies, masked, writes, joins, N, R, rowwise, coupled, normalized, learned,
    ):  # fmt: skip
        _ = written  # what is kept on disk is told apart by this
        query, key = stack(MOST), stack(MOST)
        form = (gain, fixed, N, R, rowwise, coupled, normalized, learned)
        W = N * R
        for b in range(B):
            at = b * W * R
            if masked and mask[b] == 0:
                for i in range(C):
                    result[b * C + i] = _ZERO
                if writes:
                    for i in range(W * R):
                        final[at + i] = state[at + i]
                if joins:
                    for i in range(W):
                        next_adds[b * W + i] = adds[b * W + i]
                continue
            row, reads, out = b * P, result, b * C
            if multiplies:
                row, reads, out = 0, projected, P
                _product(projection, hidden, b * D, projected, 0, P if writes else W, D)
            if joins:
                for i in range(W):
                    next_adds[b * W + i] = projected[row + P - W + i]
            _token(
                projected, row, bias, state, at, final, at, R * R, reads, out, writes, joins, adds, b * W, R,
                rule, form, query, key,
            )  # fmt: skip
            if multiplies:
                _product(heads, projected, P, result, b * C, C, W)

    pointers = (*[FLOATS] * 6, _FLAGS, *[FLOATS] * 4)
    return _compile(kernel, pointers, counts=14)


def compiled_packed(rule: Callable[[Any, Any], tuple[Any, Any, Any]]) -> Callable[..., None]:
    """The compiled loop of `packed.PackedScan`; it releases the GIL.

    Raises RuleError for a rule that numba does not take.
    """
    register_jitable(rule)
    written = _written(rule)

    def kernel(
        projected, bias, ring, reads, starts, slots, counts, writes, gain, fixed,
        B, T, P, K, joins, N, R, rowwise, coupled, normalized, learned,
    ):  # fmt: skip
        _ = written  # what is kept on disk is told apart by this
        query, key = stack(MOST), stack(MOST)
        form = (gain, fixed, N, R, rowwise, coupled, normalized, learned)
        W = N * R
        stride = R * (R + joins)
        size = N * stride
        added = 3 * W + learned * (W if rowwise else N) * (2 - coupled)  # the columns for the next token's address
        for i in range(starts[B] * W, T * W):
            reads[i] = _ZERO
        for b in range(B):
            for t in range(starts[b], starts[b + 1]):
                count = counts[b] + t - starts[b]
                before = (slots[b] * K + count % K) * size
                after = (slots[b] * K + (count + 1) % K) * size
                if writes[t] != WRITES:
                    for i in range(size):
                        ring[after + i] = ring[before + i]
                if joins and writes[t] != READS:
                    for i in range(W):
                        ring[after + i // R * stride + R * R + i % R] = projected[t * P + added + i]
                _token(
                    projected, t * P, bias, ring, before, ring, after, stride, reads, t * W, writes[t] == WRITES, joins,
                    ring, before + R * R, stride, rule, form, query, key,
                )  # fmt: skip

    pointers = (*[FLOATS] * 4, *[types.CPointer(types.int64)] * 3, _FLAGS)
    return _compile(kernel, pointers, counts=11)


def _compile(kernel: Callable[..., None], pointers: tuple[Any, ...], counts: int) -> Callable[..., None]:
    """Compile a kernel of these pointers, the gain and the fixed gate, and so many counts and flags."""
    signature = types.void(*pointers, *[types.float32] * 2, *[types.int64] * counts)
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
    try:
        try:
            done: Any = cfunc(signature, cache=True, **options)(kernel)
        except (RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written
            done = cfunc(signature, **options)(kernel)
    except NumbaError as error:
        raise RuleError(str(error).strip().splitlines()[-1]) from None
    addresses = [ctypes.c_void_p] * len(pointers)
    return ctypes.CFUNCTYPE(None, *addresses, *[ctypes.c_float] * 2, *[ctypes.c_int64] * counts)(done.address)


def _written(rule: Callable[..., Any]) -> int:
    """A number that differs where what is compiled differs: a kernel on disk is found by it."""
    parts = [rule.__code__.co_code, repr(rule.__code__.co_consts).encode()]
    parts += [inspect.getsource(formula).encode() for formula in (bounded, gate, scaled, step)]
    return zlib.crc32(b"\n".join(parts))
