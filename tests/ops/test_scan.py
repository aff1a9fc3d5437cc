"""Every backend against the definition, and what the public function accepts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    arguments,
    assert_as_defined,
    assert_split_anywhere,
    outputs_and_gradients,
    random_mask,
    shut_and_open,
)

from deltamem.ops import BACKENDS, backend_for, backend_reason, backends, scan

FAST = ("cpu", "chunked")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", [0, 1, 63, 64, 65])
@pytest.mark.parametrize("rank", [4, 5, 8, 16, 32])
def test_lengths_and_ranks(backend: str, length: int, rank: int):
    assert_as_defined(arguments(2, length, 1, rank), None, backend)


@pytest.mark.parametrize("backend", FAST)
def test_a_thousand_tokens_with_four_states(backend: str):
    assert_as_defined(arguments(1, 1000, 4, 8), random_mask(1, 1000), backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("states", [1, 4])
def test_masks_with_garbage_behind_them(backend: str, states: int):
    inputs, mask = arguments(3, 70, states, 8), random_mask(3, 70)
    wanted = outputs_and_gradients(inputs, mask, backend)
    assert_as_defined(inputs, mask, backend)
    for x in inputs[:6]:
        x[~mask] = torch.nan
    for x, y in zip(outputs_and_gradients(inputs, mask, backend), wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("backend", FAST)
def test_everything_masked(backend: str):
    inputs = arguments(2, 5, 1, 4)
    reads, final = scan(*inputs, torch.zeros(2, 5, dtype=torch.bool), backend=backend)
    assert not reads.any()
    assert torch.equal(final, inputs[6])


@pytest.mark.parametrize("backend", FAST)
def test_gates_of_exactly_zero_and_one(backend: str):
    assert_as_defined(shut_and_open(arguments(2, 100, 2, 8)), None, backend)


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=30)
@given(
    length=st.integers(1, 150),
    part=st.floats(0, 1),
    rank=st.sampled_from([4, 5, 8]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_split_anywhere(backend: str, length: int, part: float, rank: int, masked: bool, seed: int):
    mask = random_mask(2, length, seed) if masked else None
    assert_split_anywhere(arguments(2, length, 2, rank, seed), mask, round(part * length), backend)


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=20)
@given(left=st.integers(0, 40), right=st.integers(0, 40), seed=st.integers(0, 1000))
def test_padding_on_either_side_changes_nothing(backend: str, left: int, right: int, seed: int):
    *tokens, state = arguments(1, 30, 2, 4, seed)
    reads, final = scan(*tokens, state, backend=backend)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 0, left, right), value=3.0) for x in tokens]
    mask = (torch.arange(left + 30 + right) >= left) & (torch.arange(left + 30 + right) < left + 30)
    got, end = scan(*padded, state, mask[None], backend=backend)
    torch.testing.assert_close(got[:, left : left + 30], reads, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS[:3])
def test_bfloat16_computes_in_float32(backend: str):
    inputs = [x.bfloat16() for x in arguments(2, 40, 2, 8)]
    got = outputs_and_gradients(inputs, None, backend)
    wanted = outputs_and_gradients([x.float() for x in inputs], None, "reference")
    assert [x.dtype for x in got] == [torch.float32] * 2 + [torch.bfloat16] * 7
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x, y.to(x.dtype), rtol=1e-2 if x.dtype == torch.bfloat16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_slices_and_expanded_gates(backend: str):
    batch, length, states, rank = 2, 20, 2, 4
    packed = torch.cat(arguments(batch, length, states, rank)[:3], -1)  # [B, T, N, 3 R]
    q, k, v = packed.split(rank, -1)
    gates = [torch.rand(batch, length, states, 1, requires_grad=True) for _ in range(3)]
    state = torch.randn(rank, rank).expand(batch, states, rank, rank)

    def run(backend: str) -> tuple[torch.Tensor, ...]:
        reads, final = scan(q, k, v, *(g.expand_as(q) for g in gates), state, backend=backend)
        return reads, final, *torch.autograd.grad(reads.sum() + final.square().sum(), gates)

    for x, y in zip(run(backend), run("reference"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch():
    inputs, mask = arguments(5, 33, 3, 8), random_mask(5, 33)
    reads, final = scan(*inputs, mask)
    alone, end = scan(*(x[3:4] for x in inputs), mask[3:4])
    assert torch.equal(reads[3:4], alone)
    assert torch.equal(final[3:4], end)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda a: a.update(q=a["q"][0]), r"q must be \[B, T, N, R\], got shape \[5, 2, 4\]"),
        (lambda a: a.update(v=a["v"][:, :3]), r"v must have shape \[2, 5, 2, 4\], got \[2, 3, 2, 4\]"),
        (lambda a: a.update(keep=a["keep"][..., :1]), r"keep must have shape \[2, 5, 2, 4\], got \[2, 5, 2, 1\]"),
        (lambda a: a.update(state=a["state"][:, :1]), r"state must have shape \[2, 2, 4, 4\], got \[2, 1, 4, 4\]"),
        (lambda a: a.update(write=a["write"].long()), r"write must have a floating dtype, got torch.int64"),
        (lambda a: a.update(k=a["k"].to("meta")), r"k must have device cpu, as q, got meta"),
        (lambda a: a.update(mask=torch.ones(2, 4, dtype=torch.bool)), r"mask must have shape \[2, 5\], got \[2, 4\]"),
        (lambda a: a.update(mask=torch.ones(2, 5)), r"mask must have dtype torch.bool .*got torch.float32"),
        (lambda a: a.update(backend="fast"), r"backend must be one of reference, cpu, chunked, triton or None"),
    ],
)
def test_what_is_refused(change, wanted: str):
    names = ("q", "k", "v", "keep", "erase", "write", "state")
    accepted = dict(zip(names, arguments(2, 5, 2, 4), strict=True))
    change(accepted)
    with pytest.raises(ValueError, match=wanted):
        scan(**accepted)


def test_rank_zero_is_refused():
    with pytest.raises(ValueError, match="R must be at least 1"):
        scan(*(torch.zeros(1, 2, 1, 0) for _ in range(6)), torch.zeros(1, 1, 0, 0))


def test_a_rank_too_large_for_the_compiled_loop_is_scanned_by_chunks():
    inputs = arguments(1, 3, 1, 129)
    assert_as_defined(inputs, None, None)
    with pytest.raises(ValueError, match="takes R up to 128, got 129; use backend='chunked'"):
        scan(*inputs, backend="cpu")


@pytest.mark.parametrize("backend", BACKENDS[:3])
@pytest.mark.parametrize(("batch", "states"), [(0, 2), (2, 0)])
def test_nothing_to_scan_gives_nothing(backend: str, batch: int, states: int):
    inputs = arguments(batch, 5, states, 4)
    reads, final = scan(*inputs, backend=backend)
    assert (reads.shape, final.shape) == (inputs[0].shape, inputs[6].shape)


def test_the_cpu_backend_needs_cpu_tensors():
    with pytest.raises(ValueError, match="backend 'cpu' needs tensors on the CPU, got cuda"):
        backends.choose("cpu", torch.device("cuda"), 8)


def test_backends_of_devices():
    assert backend_for("cpu") == "cpu"
    assert backend_for("mps") == "chunked"
    assert "no kernel for mps" in backend_reason("mps")


def test_cuda_without_triton_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(backends, "_HAS_TRITON", False)
    backends._say_triton_is_missing.cache_clear()
    assert "triton is not installed" in backend_reason("cuda")
    assert [backends.choose(None, torch.device("cuda", i), 8) for i in range(2)] == ["chunked", "chunked"]
    assert [record.name for record in caplog.records] == ["deltamem.ops.backends"]
