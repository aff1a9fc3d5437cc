"""The memory of many requests in one call: their tokens lie one after another, as an engine's batch has them. For CPUs.

An engine may take tokens back: those of a draft that was wrong, or the one that it fed before it knew that the answer
had ended. So the state of a request is a ring of K places. The one after n tokens is at place n modulo K, and the last
K states are there to continue from.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .backends import MOST
from .decode import Form

READS, WRITES, PASSES = 0, 1, 2
"""What a token does to its memory: nothing; it writes; it only is the one before the next, for that one's address."""


@dataclass(frozen=True)
class Batch:
    """Where the tokens of each request lie, and which write.

    Attributes:
        starts: int64 `[B + 1]`, the first token of each request, and the number of all.
        slots: int64 `[B]`, the ring of each request.
        counts: int64 `[B]`, how many tokens each request had before these.
        writes: uint8 `[T]`, what each token does: `READS`, `WRITES` or `PASSES`.

    Raises:
        ValueError: there is not one start more than slots.
    """

    starts: Tensor
    slots: Tensor
    counts: Tensor
    writes: Tensor

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.slots) + 1:
            raise ValueError(f"A batch of {len(self.slots)} slots has one start more, not {len(self.starts)}.")

    @functools.cached_property
    def addresses(self) -> tuple[int, ...]:
        """Of the tensors; all layers share a batch."""
        return tuple(tensor.data_ptr() for tensor in (self.starts, self.slots, self.counts, self.writes))


class PackedScan:
    """Reads and writes the rings of one layer.

    Between two layers' weights every call is slow, so what does not change is worked out once.

    Args:
        bias: `[G]` float32, that of the gates; None where gates are not learned.
        rings: `[S, K, N, R, R]` float32, contiguous; they are changed. Where write addresses are made from two tokens
            they are `[S, K, N, R + 1, R]`: below each matrix is what the last token adds to the address after it.
        form: what fixes the arithmetic.
        key_tokens: how many tokens write addresses are made from, 1 or 2.

    Raises:
        ValueError: R is larger than the compiled loop takes, or the rings have a wrong shape.
        RuleError: the update rule cannot be compiled.
    """

    def __init__(self, bias: Tensor | None, rings: Tensor, form: Form, key_tokens: int = 1) -> None:
        if form.rank > MOST:
            raise ValueError(f"The compiled loop takes R up to {MOST}, got {form.rank}.")
        rows = form.rank + key_tokens - 1
        if rings.shape[2:] != (form.states, rows, form.rank) or not rings.is_contiguous():
            raise ValueError(f"rings must be contiguous [S, K, {form.states}, {rows}, {form.rank}], got {rings.shape}.")
        self._kept = (bias, rings)
        self._width = form.states * form.rank
        self._addresses = (None if bias is None else bias.data_ptr(), rings.data_ptr())
        self._fixed = (rings.shape[1], key_tokens > 1, *form[:6])
        self._gates = (form.gain, form.fixed_gate)
        self._kernel = _kernel(form.rule)

    def __call__(self, projected: Tensor, batch: Batch) -> Tensor:
        """Reads every token's memory, times `form.gain`, and writes to it: `[T, N·R]` float32.

        Tokens beyond the last request's, which pad a batch, read zeros.

        Args:
            projected: `[T, P]` float32 on the CPU, what the layer projects its input to: the columns q, k, v, write
                gate, keep gate, what is added to the next address. Its rows may lie apart.
            batch: whose the tokens are. Requests with the same slot, or a slot beyond S, are not checked for.

        Raises:
            ValueError: there are more tokens than flags.
        """
        tokens = len(projected)
        if len(batch.writes) < tokens:
            raise ValueError(f"batch has {len(batch.writes)} flags for {tokens} tokens.")
        if projected.stride(1) != 1:
            projected = projected.contiguous()
        reads = projected.new_empty(tokens, self._width)
        self._kernel(
            projected.data_ptr(),
            *self._addresses,
            reads.data_ptr(),
            *batch.addresses,
            *self._gates,
            len(batch.slots),
            tokens,
            projected.stride(0),
            *self._fixed,
        )
        return reads


@functools.cache
def _kernel(rule: Callable[[Any, Any], tuple[Any, Any, Any]]) -> Callable[..., None]:
    from . import decode_kernel

    return decode_kernel.compiled_packed(rule)
