"""One decoded token's whole dealing with a memory in one compiled call, for CPUs.

With the backbone's weights streaming through the caches between two layers, each operator of torch costs ten times what
it does in a loop of its own, and the twenty that surround one token's scan cost more than all the arithmetic.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .backends import MOST, unwatched

ROWS = 8
"""Up to so many rows the compiled call also projects and corrects; for more, products of matrices are faster."""

_log = logging.getLogger(__name__)


class Form(NamedTuple):
    """What fixes the arithmetic of a token: the shape of its memory, and its configuration's choices.

    Attributes:
        states: N.
        rank: R.
        rowwise_gates: one gate a row of a state, or one a state.
        coupled_gates: the keep gate is one minus the write gate.
        normalize_qk: addresses are bounded and of unit length.
        learned_gates: gates are projected; otherwise every token writes by `fixed_gate`.
        gain: multiplies what was read.
        fixed_gate: the write gate where none is learned.
        rule: `UpdateRule.gates` of the configuration.
    """

    states: int
    rank: int
    rowwise_gates: bool
    coupled_gates: bool
    normalize_qk: bool
    learned_gates: bool
    gain: float
    fixed_gate: float
    rule: Callable[[Any, Any], tuple[Any, Any, Any]]


def serves(tensor: Tensor, rank: int) -> bool:
    """Whether `token` may stand in for the operators: on a CPU, a small R, and nothing that watches the call."""
    return unwatched(tensor) and rank <= MOST


def compiles(form: Form) -> bool:
    """Whether the update rule of `form` can be compiled. A rule of another package may do more than arithmetic."""
    return _kernel(form) is not None


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
    adds: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Corrections `[B, 1, C]`, the state `[B, N, R, R]`, a new one if the token `writes`, and its `adds`; all float32.

    `hidden` is the layer's input `[B, 1, D]`. `projection` `[P, D]` has the rows q, k, v, write gate, keep gate, `bias`
    `[G]` is that of the gates, and `heads` `[C, N·R]` makes corrections of what was read, times `form.gain`; all three
    are float32 and contiguous. Where gates are not learned there is no `bias`. `mask` is bool `[B, 1]`.

    Where write addresses are made from two tokens, the last rows of `projection` say what a token adds to the address
    after it, and `adds` `[B, N·R]` is what the one before adds to this one's; a token that only reads leaves it alone.
    """
    kernel = _kernel(form)
    assert kernel is not None
    hidden, state = hidden.float().contiguous(), state.contiguous()
    shown = None if mask is None else mask.contiguous()
    (batch, _, columns), (rows, _) = hidden.shape, projection.shape
    width, multiplies = form.states * form.rank, batch <= ROWS
    if multiplies:
        projected = hidden.new_empty(rows + width)
        result = hidden.new_empty(batch, 1, heads.shape[0])
    else:
        projected = F.linear(hidden, projection)
        result = hidden.new_empty(batch, 1, width)
    final = torch.empty_like(state) if writes else state
    joins = writes and adds is not None
    adds = adds if adds is None else adds.contiguous()
    next_adds = torch.empty_like(adds) if joins else adds  # type: ignore[arg-type]
    kernel(
        hidden.data_ptr(),
        projection.data_ptr(),
        None if bias is None else bias.data_ptr(),
        heads.data_ptr(),
        state.data_ptr(),
        None if adds is None else adds.data_ptr(),
        None if shown is None else shown.data_ptr(),
        projected.data_ptr(),
        result.data_ptr(),
        final.data_ptr(),
        None if next_adds is None else next_adds.data_ptr(),
        form.gain,
        form.fixed_gate,
        batch,
        columns,
        rows,
        result.shape[-1],
        multiplies,
        shown is not None,
        writes,
        joins,
        *form[:6],
    )
    return result if multiplies else F.linear(result, heads), final, next_adds


_kernels: dict[Callable[..., Any], Callable[..., None] | None] = {}


def _kernel(form: Form) -> Callable[..., None] | None:
    """The compiled token of an update rule; ``None`` where the rule cannot be compiled, which is said once."""
    if form.rule not in _kernels:
        from . import decode_kernel

        try:
            _kernels[form.rule] = decode_kernel.compiled(form.rule)
        except decode_kernel.RuleError as error:
            _kernels[form.rule] = None
            _log.warning("The update rule %s runs uncompiled, and slower: %s", form.rule.__name__, error)
    return _kernels[form.rule]
