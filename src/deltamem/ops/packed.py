"""The memory of many requests in one call: their tokens lie one after another, as an engine's batch has them. For CPUs.

An engine may take tokens back: those of a draft that was wrong, or the one that it fed before it knew that the answer
had ended. So the state of a request is a ring of K places. The one after n tokens is at place n modulo K, and the last
K states are there to continue from.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from .backends import MOST
from .decode import Form


class Batch(NamedTuple):
    """Where the tokens of each request lie, and which write.

    Attributes:
        starts: int64 `[B + 1]`, the first token of each request, and the number of all.
        slots: int64 `[B]`, the ring of each request.
        counts: int64 `[B]`, how many tokens each request had before these.
        writes: uint8 `[T]`, 1 for the tokens that write.
    """

    starts: Tensor
    slots: Tensor
    counts: Tensor
    writes: Tensor


def scan_packed(projected: Tensor, bias: Tensor | None, rings: Tensor, batch: Batch, form: Form) -> Tensor:
    """Reads every token's memory, times `form.gain`, and writes to it: `[T, N·R]` float32.

    Tokens beyond the last request's, which pad a batch, read zeros.

    Args:
        projected: `[T, P]` float32 on the CPU, what the layer projects its input to: the columns q, k, v, write gate,
            keep gate.
        bias: `[G]` float32, that of the gates; None where gates are not learned.
        rings: `[S, K, N, R, R]` float32, contiguous; they are changed.
        batch: whose the tokens are. Requests with the same slot, or a slot beyond S, are not checked for.
        form: what fixes the arithmetic.

    Raises:
        ValueError: R is larger than the compiled loop takes, or tensors have wrong shapes.
        RuleError: the update rule cannot be compiled.
    """
    tokens, width = projected.shape
    if form.rank > MOST:
        raise ValueError(f"The compiled loop takes R up to {MOST}, got {form.rank}.")
    if rings.shape[2:] != (form.states, form.rank, form.rank) or not rings.is_contiguous():
        raise ValueError(
            f"rings must be contiguous [S, K, {form.states}, {form.rank}, {form.rank}], got {rings.shape}."
        )
    if len(batch.writes) < tokens or len(batch.starts) != len(batch.slots) + 1:
        raise ValueError("batch must have a flag a token and one start more than slots.")
    projected = projected.float().contiguous()
    reads = projected.new_zeros(tokens, form.states * form.rank)
    _kernel(form.rule)(
        projected.data_ptr(),
        None if bias is None else bias.data_ptr(),
        rings.data_ptr(),
        reads.data_ptr(),
        batch.starts.data_ptr(),
        batch.slots.data_ptr(),
        batch.counts.data_ptr(),
        batch.writes.data_ptr(),
        form.gain,
        form.fixed_gate,
        len(batch.slots),
        width,
        rings.shape[1],
        *form[:6],
    )
    return reads


@functools.cache
def _kernel(rule: Callable[[Any, Any], tuple[Any, Any, Any]]) -> Callable[..., None]:
    from . import decode_kernel

    return decode_kernel.compiled_packed(rule)
