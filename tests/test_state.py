"""The memory as a value."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deltamem import MemoryState


def filled(batch: int = 3, *, pending: int = 0, layers: int = 2, rank: int = 4) -> MemoryState:
    """A state whose every number differs."""
    empty = MemoryState.zeros(layers, batch, 2, rank, pending=pending)
    named = {
        name: torch.randn(t.shape) if t.is_floating_point() else torch.arange(batch)
        for name, t in empty.tensors().items()
    }
    return MemoryState.from_tensors(named)


def same(a: MemoryState, b: MemoryState) -> bool:
    """Whether two states hold the same tensors."""
    other = b.tensors()
    return a.tensors().keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in a.tensors().items())


pending = pytest.mark.parametrize("pending", [0, 5], ids=["tokens", "segments"])


def test_zeros() -> None:
    state = MemoryState.zeros(3, 2, 4, 8, pending=7)
    assert (state.batch, len(state.states), state.nbytes) == (2, 3, 3 * 2 * 4 * 8 * 8 * 4)
    assert state.states[0].shape == (2, 4, 8, 8)
    assert not any(t.any() for t in state.states)
    assert state.open is not None
    assert state.open.sums[2].shape == (2, 7)
    assert state.open.segment.tolist() == [-1, -1]


@pending
def test_rows_can_be_taken_and_put_together(pending: int) -> None:
    state = filled(pending=pending)
    rows = [state.row(i) for i in range(3)]
    assert same(MemoryState.stack(rows), state)
    assert same(state.select([2, 0]), MemoryState.stack([rows[2], rows[0]]))
    assert same(state.select(torch.tensor([1, 1])), MemoryState.stack([rows[1], rows[1]]))
    assert same(state.row(1).repeat_interleave(2), state.select([1, 1]))
    assert same(state.repeat_interleave(2), state.select([0, 0, 1, 1, 2, 2]))
    assert same(MemoryState.stack([state, rows[0]]), state.select([0, 1, 2, 0]))


@pending
def test_tensors_and_back(pending: int) -> None:
    state = filled(pending=pending)
    assert same(MemoryState.from_tensors(state.tensors()), state)
    assert same(state.to("cpu"), state)
    assert state.to("meta").states[0].is_meta


def test_a_selection_shares_nothing() -> None:
    state = filled()
    copy = state.select(range(3))
    copy.states[0].zero_()
    assert state.states[0].any()


@pytest.mark.parametrize("rows", [[3], torch.tensor([True, False, True]), [0.5], torch.tensor(1)], ids=str)
def test_rows_that_are_no_row_numbers_are_refused(rows: Any) -> None:
    with pytest.raises((ValueError, IndexError)):
        filled().select(rows)


def test_detaching_cuts_the_history() -> None:
    state = MemoryState((torch.zeros(1, 1, 2, 2, requires_grad=True) * 2,), torch.zeros(1, dtype=torch.int64))
    assert state.states[0].requires_grad
    assert not state.detach().states[0].requires_grad


def test_norms_and_differences() -> None:
    state = filled()
    norms = state.norms()
    assert norms.shape == (2, 3, 2)
    torch.testing.assert_close(norms[1, 2, 0], state.states[1][2, 0].square().sum().sqrt())
    assert not state.diff(state).any()
    torch.testing.assert_close(state.diff(MemoryState.zeros(2, 3, 2, 4)), norms)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("tokens"), "lacks.*tokens"),
        (lambda t: t.pop("state.0"), "state.0"),
        (lambda t: t.pop("open.sum.1"), "open.sum.1"),
        (lambda t: t.pop("open.count"), "open"),
        (lambda t: t.update(extra=torch.zeros(3)), "extra"),
        (lambda t: t.update({"state.1": t["state.1"].half()}), "float32"),
        (lambda t: t.update({"state.1": t["state.1"][:2]}), "shape"),
        (lambda t: t.update({"state.1": t["state.1"][..., :2]}), "shape"),
        (lambda t: t.update({name: x[:, 0] for name, x in t.items() if name.startswith("state")}), "shape"),
        (lambda t: t.update(tokens=t["tokens"][:1]), "tokens"),
        (lambda t: t.update(tokens=t["tokens"].float()), "tokens"),
        (lambda t: t.update({"open.segment": t["open.segment"].int()}), "open.segment"),
        (lambda t: t.update({"open.count": t["open.count"][:1]}), "open.count"),
        (lambda t: t.update({"open.sum.1": t["open.sum.1"][:, :3]}), "open.sum.1"),
        (lambda t: t.update({"open.sum.1": t["open.sum.1"].double()}), "open.sum.1"),
        (lambda t: t.clear(), "lacks"),
    ],
)
def test_wrong_tensors_are_refused(spoil: Callable[[dict[str, Tensor]], Any], said: str) -> None:
    named = filled(pending=5).tensors()
    spoil(named)
    with pytest.raises(ValueError, match=said):
        MemoryState.from_tensors(named)


@pytest.mark.parametrize("other", [filled(layers=3), filled(rank=5), filled(pending=5)], ids=["layers", "rank", "open"])
def test_states_of_different_adapters_share_no_batch(other: MemoryState) -> None:
    with pytest.raises(ValueError, match="different shapes"):
        MemoryState.stack([filled(), other])


def test_nothing_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="Nothing"):
        MemoryState.stack([])


def test_a_state_is_shown_in_a_line():
    shown = repr(MemoryState.zeros(30, 20, 3, 8))
    assert len(shown) < 200
    assert "layers=30, batch=20, states=3, rank=8, tokens=[0, 0, 0, 0, 0, 0, 0, 0, …]" in shown
