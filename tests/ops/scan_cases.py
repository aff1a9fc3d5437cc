"""Arguments for a scan, and the comparison with the definition in double precision."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from deltamem.ops import scan

Arguments = list[Tensor]


def arguments(batch: int, length: int, states: int, rank: int, seed: int = 0) -> Arguments:
    """q, k, v, keep, erase, write [B, T, N, R] and a non-zero state [B, N, R, R], float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shape = (batch, length, states, rank)
    q, k = normalize(normal(*shape), dim=-1), normalize(normal(*shape), dim=-1)
    keep, erase, write = (torch.sigmoid(normal(*shape)) for _ in range(3))
    return [q, k, normal(*shape), keep, erase, write, normal(batch, states, rank, rank)]


def random_mask(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) > 0.3


def shut_and_open(inputs: Arguments) -> Arguments:
    """The same with a third of the gates exactly 0 and a third exactly 1."""
    generator = torch.Generator().manual_seed(1)
    gates = []
    for gate in inputs[3:6]:
        draw = torch.rand(gate.shape, generator=generator)
        gates.append(gate.masked_fill(draw < 1 / 3, 0.0).masked_fill(draw > 2 / 3, 1.0))
    return [*inputs[:3], *gates, inputs[6]]


def outputs_and_gradients(inputs: Arguments, mask: Tensor | None, backend: str | None) -> list[Tensor]:
    """Reads, final state, and the gradients of all inputs from a random combination of both."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    reads, final = scan(*inputs, mask, backend=backend)
    generator = torch.Generator().manual_seed(2)
    to_reads, to_final = (torch.randn(x.shape, generator=generator).to(x) for x in (reads, final))
    grads = torch.autograd.grad((reads, final), inputs, (to_reads, to_final), allow_unused=True, materialize_grads=True)
    return [reads.detach(), final.detach(), *grads]


def assert_as_defined(inputs: Arguments, mask: Tensor | None, backend: str | None) -> None:
    """Outputs and gradients of `backend` are those of the definition in double precision."""
    got = outputs_and_gradients(inputs, mask, backend)
    wanted = outputs_and_gradients([x.double() for x in inputs], mask, "reference")
    names = ("reads", "final", "d q", "d k", "d v", "d keep", "d erase", "d write", "d state")
    for name, x, y in zip(names, got, wanted, strict=True):
        message = f"{name} of {backend}"
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=2e-5, msg=lambda text, m=message: f"{m}: {text}")


def assert_split_anywhere(inputs: Arguments, mask: Tensor | None, cut: int, backend: str) -> None:
    """Scanning up to `cut`, then from there, is scanning in one go."""
    reads, final = scan(*inputs, mask, backend=backend)
    *tokens, state = inputs
    head, middle = scan(*(x[:, :cut] for x in tokens), state, None if mask is None else mask[:, :cut], backend=backend)
    tail, end = scan(*(x[:, cut:] for x in tokens), middle, None if mask is None else mask[:, cut:], backend=backend)
    torch.testing.assert_close(torch.cat([head, tail], 1), reads, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, final, rtol=1e-5, atol=1e-5)
