"""Segment writes: one write a segment, however the input is cut and wherever its padding is."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import plain
from deltamem import DeltaMemConfig, MemoryState, Step

BATCH, LENGTH = 2, 12
CONFIG = DeltaMemConfig(rank=3, states=2, write="message", coupled_gates=False)


def start(memory: Any) -> MemoryState:
    empty = MemoryState.zeros(1, BATCH, 2, 3, pending=memory.pending_width)
    states = torch.randn(empty.states[0].shape, generator=torch.Generator().manual_seed(4))
    return MemoryState((states,), empty.tokens, empty.open)


def reads(memory: Any, corrections: dict[str, torch.Tensor]) -> torch.Tensor:
    """The reads back from the corrections, whose heads are of full column rank."""
    heads = memory.heads / memory.config.rank * memory.config.alpha
    return torch.cat(list(corrections.values()), -1) @ torch.linalg.pinv(heads).t()


def rows(values: Any) -> Any:
    return st.lists(st.lists(values, min_size=LENGTH, max_size=LENGTH), min_size=BATCH, max_size=BATCH)


@settings(max_examples=60, deadline=None)
@given(
    ids=rows(st.integers(-1, 2)),
    mask=rows(st.sampled_from([True, True, True, False])),
    cuts=st.sets(st.integers(1, LENGTH - 1)),
    close=st.booleans(),
)
def test_any_cut_is_the_plain_walk(ids: Any, mask: Any, cuts: set[int], close: bool) -> None:
    memory = plain.layer(CONFIG)
    x = torch.randn(BATCH, LENGTH, 6, generator=torch.Generator().manual_seed(5))
    state, found = start(memory), []
    edges = [0, *sorted(cuts), LENGTH]
    with torch.no_grad():
        for a, b in pairwise(edges):
            step = Step(
                state,
                mask=torch.tensor(mask)[:, a:b],
                segment_ids=torch.tensor(ids)[:, a:b],
                close=close and b == LENGTH,
            )
            corrections, _ = plain.forward(memory, x[:, a:b], step)
            found.append(reads(memory, corrections))
            state = step.new_state
        assert state.open is not None
        for row in range(BATCH):
            wanted, after, members = plain.segment_walk(
                memory, x[row], ids[row], mask[row], start(memory).states[0][row], close=close
            )
            torch.testing.assert_close(torch.cat(found, 1)[row], wanted, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(state.states[0][row], after, rtol=1e-3, atol=1e-3)
            assert state.open.count[row] == len(members)
            total = torch.stack(members).sum(0) if members else torch.zeros(6)
            sums = memory.projection[CONFIG.width :] @ total
            torch.testing.assert_close(state.open.sums[0][row], sums, rtol=1e-3, atol=1e-3)
            inside = [i for i, real in zip(ids[row], mask[row], strict=True) if real]
            assert state.open.segment[row] == (inside[-1] if members else -1)
            belong = sum(i != -1 and real for i, real in zip(ids[row], mask[row], strict=True))
            assert state.tokens[row] == belong


def test_every_token_of_a_call_reads_the_calls_start_under_the_releases_convention() -> None:
    config = DeltaMemConfig(rank=3, states=2, write="sentence", segment_reads="call")
    memory = plain.layer(config)
    x = torch.randn(BATCH, LENGTH, 6)
    ids = torch.tensor([[0] * 5 + [-1] * 2 + [1] * 5, [-1] * 3 + [4] * 9])
    state = start(memory)
    with torch.no_grad():
        corrections, step = plain.forward(memory, x, Step(state, segment_ids=ids))
        parts = memory.named_parts()
        for row in range(BATCH):
            first = [plain.read(config, parts, state.states[0][row], token) for token in x[row]]
            torch.testing.assert_close(reads(memory, corrections)[row], torch.stack(first), rtol=1e-3, atol=1e-3)
            _, after, _ = plain.segment_walk(
                memory, x[row], ids[row].tolist(), [True] * LENGTH, state.states[0][row], close=True
            )
            torch.testing.assert_close(step.new_state.states[0][row], after, rtol=1e-3, atol=1e-3)
    assert step.new_state.open is not None
    assert step.new_state.open.count.tolist() == [0, 0]


@pytest.mark.parametrize("fields", [{"update_rule": "hebbian"}, {"update_rule": "accumulate"}, {"gates": "fixed"}])
def test_every_rule_writes_segments(fields: dict[str, Any]) -> None:
    memory = plain.layer(DeltaMemConfig(rank=3, states=2, write="message", **fields))
    x = torch.randn(BATCH, LENGTH, 6, generator=torch.Generator().manual_seed(5))
    ids = torch.tensor([[0] * 5 + [-1] * 2 + [1] * 5, [-1] * 3 + [4] * 9])
    state, found = start(memory), []
    with torch.no_grad():
        for part in (slice(0, 3), slice(3, LENGTH)):
            corrections, step = plain.forward(memory, x[:, part], Step(state, segment_ids=ids[:, part], close=True))
            found.append(reads(memory, corrections))
            state = step.new_state
        for row in range(BATCH):
            cut = torch.where(torch.arange(LENGTH) < 3, ids[row], ids[row] + 10 * (ids[row] >= 0)).tolist()
            wanted, after, _ = plain.segment_walk(
                memory, x[row], cut, [True] * LENGTH, start(memory).states[0][row], close=True
            )
            torch.testing.assert_close(torch.cat(found, 1)[row], wanted, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(state.states[0][row], after, rtol=1e-3, atol=1e-3)


def test_missing_segment_ids_are_an_error_and_never_token_writes() -> None:
    memory = plain.layer(CONFIG)
    x = torch.randn(BATCH, LENGTH, 6)
    with pytest.raises(ValueError, match="needs segment ids"):
        plain.forward(memory, x, Step(start(memory)))
    _, step = plain.forward(memory, x, Step(start(memory), write=False))
    assert step.new_state is step.state


def test_a_token_that_may_not_write_belongs_to_no_segment() -> None:
    memory = plain.layer(CONFIG)
    x = torch.randn(BATCH, LENGTH, 6)
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    write = torch.arange(LENGTH).expand(BATCH, -1) < 5
    _, some = plain.forward(memory, x, Step(start(memory), segment_ids=ids, write=write, close=True))
    _, wanted = plain.forward(memory, x, Step(start(memory), segment_ids=ids - (~write).long(), close=True))
    torch.testing.assert_close(some.new_state.tensors(), wanted.new_state.tensors())
    assert some.new_state.tokens.tolist() == [5, 5]


@pytest.mark.parametrize("ids", [torch.zeros(BATCH, 3), torch.zeros(LENGTH)])
def test_segment_ids_of_another_shape_are_refused(ids: torch.Tensor) -> None:
    memory = plain.layer(CONFIG)
    with pytest.raises(ValueError, match=r"segment_ids has shape .*wanted \[2, 12\]"):
        plain.forward(memory, torch.randn(BATCH, LENGTH, 6), Step(start(memory), segment_ids=ids.long()))


def test_a_memory_made_for_token_writes_is_refused() -> None:
    memory = plain.layer(CONFIG)
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match="made for token writes"):
        plain.forward(memory, torch.randn(BATCH, LENGTH, 6), Step(MemoryState.zeros(1, BATCH, 2, 3), segment_ids=ids))
