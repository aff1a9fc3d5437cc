"""The GPU kernels against the definition; test_triton.py runs these, on a GPU or in Triton's interpreter.

The interpreter takes about a millisecond a token, so the cases are small and the chunks are made short.
"""

import pytest
import torch
from scan_cases import (
    arguments,
    assert_as_defined,
    assert_split_anywhere,
    outputs_and_gradients,
    random_mask,
    shut_and_open,
)

from deltamem.ops import scan, triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.to(DEVICE) for x in inputs]


def _mask(batch: int, length: int) -> torch.Tensor:
    return random_mask(batch, length).to(DEVICE)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "SPAN", 2)
    monkeypatch.setattr(triton, "BLOCK", 4)


@pytest.mark.parametrize("rank", [4, 5, 8, 16, 32])
def test_a_program_a_row(rank: int):
    assert not triton.in_chunks(2, 10, rank)
    assert_as_defined(_on_device(arguments(2, 10, 1, rank)), _mask(2, 10), "triton")


@pytest.mark.parametrize("length", [0, 1])
def test_short_with_four_states(length: int):
    assert_as_defined(_on_device(arguments(2, length, 4, 4)), None, "triton")


@pytest.mark.parametrize(("rank", "states", "masked"), [(4, 2, True), (5, 1, False), (8, 1, True), (16, 1, False)])
def test_chunks_in_parallel(short_chunks: None, rank: int, states: int, masked: bool):
    assert triton.in_chunks(states, 9, rank)
    mask = _mask(1, 9) if masked else None
    assert_as_defined(_on_device(shut_and_open(arguments(1, 9, states, rank))), mask, "triton")


@pytest.mark.parametrize("cut", [1, 8])
def test_split(short_chunks: None, cut: int):
    assert_split_anywhere(_on_device(arguments(1, 9, 1, 4)), _mask(1, 9), cut, "triton")


def test_garbage_behind_the_mask(short_chunks: None):
    inputs, mask = _on_device(arguments(1, 9, 1, 4)), _mask(1, 9)
    wanted = outputs_and_gradients(inputs, mask, "triton")
    for x in inputs[:6]:
        x[~mask] = torch.nan
    for x, y in zip(outputs_and_gradients(inputs, mask, "triton"), wanted, strict=True):
        assert torch.equal(x, y)


def test_bfloat16_and_strides():
    packed = torch.cat(arguments(1, 6, 2, 4)[:3], -1).to(DEVICE, torch.bfloat16)
    q, k, v = packed.split(4, -1)
    gate = torch.rand(1, 6, 2, 1, device=DEVICE).expand_as(q)
    state = torch.zeros(1, 2, 4, 4, device=DEVICE)
    got = scan(q, k, v, gate, gate, gate, state, backend="triton")
    for x, y in zip(got, scan(q, k, v, gate, gate, gate, state, backend="reference"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(DEVICE == "cpu", reason="too long for the interpreter")
@pytest.mark.parametrize("length", [63, 64, 65, 255, 256, 257, 1000, 8192])
@pytest.mark.parametrize("rank", [4, 5, 8, 16, 32])
@pytest.mark.parametrize("batch", [1, 300])
def test_lengths(length: int, rank: int, batch: int):
    inputs, mask = _on_device(arguments(batch, length, 1, rank)), _mask(batch, length)
    if batch == 1 and length <= 1000:
        assert_as_defined(inputs, mask, "triton")
        return
    host = outputs_and_gradients([x.cpu() for x in inputs], mask.cpu(), "cpu")
    for x, y in zip(outputs_and_gradients(inputs, mask, "triton"), host, strict=True):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-3, atol=1e-4)
