"""`deltamem::scan` and its gradient as operators of torch: one node to torch.compile, checkpointing and autograd.

Only the inputs are saved for the backward pass; the kernels recompute the states from them. The `backend` argument is a
plain string, so a traced graph records which implementation it calls.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import chunked, cpu, triton
from .inputs import ScanInputs


def _implementation(backend: str) -> ModuleType:
    return cpu if backend == "cpu" else triton


@torch.library.custom_op("deltamem::scan", mutates_args=())
def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Reads [B, T, N, R] and the final state [B, N, R, R], float32, of arguments `deltamem.ops.scan` has checked."""
    reads, final = _implementation(backend).forward(ScanInputs(q, k, v, keep, erase, write, state, mask))
    return reads, final


@torch.library.custom_op("deltamem::scan_backward", mutates_args=())
def scan_backward(
    grad_reads: Tensor,
    grad_final: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, keep, erase, write [B, T, N, R] and state [B, N, R, R], float32."""
    inputs = ScanInputs(q, k, v, keep, erase, write, state, mask)
    grads = _implementation(backend).backward(grad_reads, grad_final, inputs)
    grad_q, grad_k, grad_v, grad_keep, grad_erase, grad_write, grad_state = grads
    return grad_q, grad_k, grad_v, grad_keep, grad_erase, grad_write, grad_state


def _like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


@scan.register_fake
def _scan_shapes(q: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    state = others[5]
    return _like(q), _like(state)


@scan_backward.register_fake
def _scan_backward_shapes(
    grad_reads: Tensor, grad_final: Tensor, q: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    state = others[5]
    return _like(q), _like(q), _like(q), _like(q), _like(q), _like(q), _like(state)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_reads: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, mask = ctx.saved_tensors
    if torch.is_grad_enabled():
        return (*_differentiable_gradients(inputs, mask, grad_reads, grad_final), None, None)
    grads = scan_backward(grad_reads, grad_final, *inputs, mask, ctx.backend)
    return (*(grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True)), None, None)


def _differentiable_gradients(
    inputs: list[Tensor], mask: Tensor | None, grad_reads: Tensor, grad_final: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients as functions of inputs and gradients that can be differentiated again (create_graph=True)."""
    # An alias each: an input given twice, or computed from another, then gets the gradient of its own place.
    aliases = [x.view_as(x) for x in inputs]
    outputs = chunked.scan(ScanInputs(*aliases)._replace(mask=mask))
    wanted = [x for x in aliases if x.requires_grad]
    to = (grad_reads, grad_final)
    grads = iter(torch.autograd.grad(outputs, wanted, to, create_graph=True, materialize_grads=True))
    return tuple(next(grads) if x.requires_grad else None for x in aliases)


scan.register_autograd(_differentiate, setup_context=_save)
