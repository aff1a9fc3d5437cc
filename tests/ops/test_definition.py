"""The reference against a hand-computed step, and the derivatives of what is plain PyTorch, in double precision."""

import pytest
import torch
from scan_cases import arguments, random_mask

from deltamem.ops import chunked, reference
from deltamem.ops.inputs import ScanInputs


def test_one_step_by_hand():
    def token(*row: float) -> torch.Tensor:
        return torch.tensor([[[row]]], dtype=torch.float32)  # [1, 1, 1, 2]

    q, k, v = token(1, 0), token(0.6, 0.8), token(10, 20)
    keep, erase, write = token(0.5, 1), token(0.25, 0), token(1, 0.1)
    state = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    reads, final = reference.scan(ScanInputs(q, k, v, keep, erase, write, state))
    # S k = (2.2, 5); row 0: 0.5 (1, 2) + (10 - 0.55) k; row 1: (3, 4) + 2 k
    torch.testing.assert_close(reads, token(1, 3))
    torch.testing.assert_close(final[0, 0], torch.tensor([[6.17, 8.56], [4.2, 5.6]]))


def test_masked_tokens_read_zeros_and_leave_the_state():
    inputs, mask = arguments(2, 6, 2, 4), random_mask(2, 6)
    for x in inputs[:6]:
        x[~mask] = torch.nan
    reads, final = reference.scan(ScanInputs(*inputs, mask))
    assert torch.equal(reads[~mask], torch.zeros_like(reads[~mask]))
    for b in range(2):
        alone = [x[b : b + 1][:, mask[b]] for x in inputs[:6]]
        wanted, end = reference.scan(ScanInputs(*alone, inputs[6][b : b + 1]))
        torch.testing.assert_close(reads[b][mask[b]], wanted[0])
        torch.testing.assert_close(final[b], end[0])


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_the_definition(masked: bool):
    inputs = [x.double().requires_grad_() for x in arguments(1, 5, 2, 3)]
    mask = random_mask(1, 5) if masked else None
    assert torch.autograd.gradcheck(lambda *x: reference.scan(ScanInputs(*x, mask)), inputs)


@pytest.mark.parametrize("gate", [None, 0.0])
def test_second_derivatives_of_chunked(gate: float | None):
    inputs = [x.double() for x in arguments(1, 4, 1, 2)]
    if gate is not None:
        inputs[3] = torch.full_like(inputs[3], gate)
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: chunked.scan(ScanInputs(*x)), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: chunked.scan(ScanInputs(*x)), inputs)
