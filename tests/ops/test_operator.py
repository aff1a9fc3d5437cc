"""The operator among torch's own machinery: compile, checkpointing, double backward, what is saved."""

import pytest
import torch
from scan_cases import arguments, outputs_and_gradients, random_mask
from torch.utils.checkpoint import checkpoint

from deltamem.ops import operator, scan


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked: bool):
    inputs = [x.requires_grad_() for x in arguments(2, 9, 2, 4)]
    mask = random_mask(2, 9) if masked else None
    torch.library.opcheck(operator.scan, (*inputs, mask, "cpu"))
    grads = (torch.randn(2, 9, 2, 4), torch.randn(2, 2, 4, 4))
    torch.library.opcheck(operator.scan_backward, (*grads, *(x.detach() for x in inputs), mask, "cpu"))


def test_compiles_without_a_graph_break():
    def step(*inputs: torch.Tensor) -> torch.Tensor:
        reads, final = scan(*inputs[:-1], inputs[-1] * 2)
        return reads.sin().sum() + final.square().sum()

    eager = [x.requires_grad_() for x in arguments(2, 12, 2, 8)]
    compiled = [x.detach().clone().requires_grad_() for x in eager]
    wanted = step(*eager)
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled)
    torch.testing.assert_close(got, wanted)
    wanted.backward()
    got.backward()
    for x, y in zip(compiled, eager, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_checkpointing_changes_no_gradient():
    inputs = [x.requires_grad_() for x in arguments(2, 40, 2, 8)]
    wanted = torch.autograd.grad([x.sum() for x in scan(*inputs)], inputs)
    got = torch.autograd.grad([x.sum() for x in checkpoint(scan, *inputs, use_reentrant=False)], inputs)
    for x, y in zip(got, wanted, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_double_backward(backend: str):
    def second(backend: str, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in inputs]
        reads, final = scan(inputs[0], *inputs[:1], *inputs[2:], random_mask(2, 20), backend=backend)  # q is k as well
        used = inputs[:1] + inputs[2:]
        grads = torch.autograd.grad(reads.sin().sum() + final.square().sum(), used, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in grads), used)

    inputs = arguments(2, 20, 2, 4)
    for x, y in zip(second(backend, inputs), second("reference", [x.double() for x in inputs]), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("backend", "most"), [("cpu", 6), ("chunked", 7)])
def test_no_state_a_token_is_saved(backend: str, most: int):
    batch, length, states, rank = 2, 2048, 2, 8
    inputs = [x.requires_grad_() for x in arguments(batch, length, states, rank)]
    saved: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        scan(*inputs, random_mask(batch, length), backend=backend)
    one_input = batch * length * states * rank
    assert sum(saved.values()) <= most * one_input + 8 * batch * states * rank * rank + batch * length
    assert sum(saved.values()) < one_input * rank  # a state a token


def test_gradients_only_where_asked():
    inputs = arguments(1, 7, 1, 4)
    inputs[2].requires_grad_()
    reads, final = scan(*inputs)
    (reads.sum() + final.sum()).backward()
    assert inputs[2].grad is not None
    wanted = outputs_and_gradients(inputs, None, "reference")
    assert wanted[4].shape == inputs[2].grad.shape
    assert all(x.grad is None for i, x in enumerate(inputs) if i != 2)


def test_gradient_from_the_final_state_alone():
    got, wanted = (
        torch.autograd.grad(scan(*inputs, backend=backend)[1].sum(), inputs, allow_unused=True, materialize_grads=True)
        for backend in ("cpu", "reference")
        for inputs in [[x.requires_grad_() for x in arguments(1, 70, 1, 8)]]
    )
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_autocast_does_not_lower_the_precision():
    inputs = arguments(1, 50, 1, 8)
    for backend in ("reference", "cpu", "chunked"):
        wanted = scan(*inputs, backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = scan(*inputs, backend=backend)
        for x, y in zip(got, wanted, strict=True):
            assert torch.equal(x, y)


def test_meta_tensors_give_shapes():
    reads, final = scan(*(x.to("meta") for x in arguments(2, 5, 3, 4)))
    assert (reads.shape, final.shape) == ((2, 5, 3, 4), (2, 3, 4, 4))
