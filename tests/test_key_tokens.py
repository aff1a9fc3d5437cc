"""Write addresses that are made from a token and the one before it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import deltamem
import plain
from deltamem import DeltaMemConfig, MemoryState, Step
from deltamem.formats.adapter import read_adapter
from deltamem.formats.release import write_release
from tiny import adapted, assert_same_state, live_state, tokens

CONFIG = DeltaMemConfig(rank=3, states=2, key_tokens=2)


def empty(rows: int) -> MemoryState:
    return MemoryState.zeros(1, rows, CONFIG.states, CONFIG.rank, key_tokens=2)


def inputs(rows: int, length: int) -> Tensor:
    return torch.randn(rows, length, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(4, 9), (1, 2, 3, 9), (8, 9)])
def test_how_the_tokens_are_cut_into_calls_changes_nothing(cuts: tuple[int, ...]) -> None:
    memory, x = plain.layer(CONFIG), inputs(2, 9)
    _, whole = plain.forward(memory, x, Step(empty(2)))
    state, start = empty(2), 0
    for end in cuts:
        _, step = plain.forward(memory, x[:, start:end], Step(state))
        plain.forward(memory, inputs(2, 3), Step(step.new_state, write=False))  # to read leaves nothing behind
        state, start = step.new_state, end
    assert_same_state(state, whole.new_state, 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right", "within"])
def test_padding_is_nobodys_neighbour(side: str) -> None:
    memory, x = plain.layer(CONFIG), inputs(1, 6)
    _, wanted = plain.forward(memory, x, Step(empty(1)))
    real = {"left": [0] * 3 + [1] * 6, "right": [1] * 6 + [0] * 3, "within": [1, 1, 0, 1, 0, 0, 1, 1, 1]}[side]
    mask = torch.tensor([real]).bool()
    padded = 9 * torch.ones(1, 9, 6)
    padded[mask] = x[0]
    _, step = plain.forward(memory, padded, Step(empty(1), mask=mask))
    assert_same_state(step.new_state, wanted.new_state, 1e-6)


@torch.no_grad()
def test_a_token_that_is_not_written_is_still_the_one_before() -> None:
    memory, x = plain.layer(CONFIG), inputs(1, 2)
    step = Step(empty(1), write=torch.tensor([[False, True]]))
    plain.forward(memory, x, step)
    alone = Step(empty(1))
    plain.forward(memory, x[:, 1:], alone)
    assert not torch.equal(step.new_state.states[0], alone.new_state.states[0])
    assert step.new_state.tokens.tolist() == alone.new_state.tokens.tolist() == [1]


@torch.no_grad()
def test_a_model_goes_on_from_a_saved_memory_as_if_nothing_had_happened() -> None:
    model = adapted(key_tokens=2)
    whole = Step(deltamem.new_state(model, 2))
    model(tokens(2, 7), memory=whole, use_cache=False)
    cache = deltamem.memory_cache(model, deltamem.new_state(model, 2))
    model(tokens(2, 7)[:, :4], past_key_values=cache)
    kept = deltamem.state_from_bytes(deltamem.state_to_bytes(cache.memory, model), model)
    assert_same_state(kept, cache.memory, 0)
    cache.memory = kept.select([1, 0]).select([1, 0])
    for at in range(4, 7):
        model(tokens(2, 7)[:, at : at + 1], past_key_values=cache)
    assert_same_state(cache.memory, whole.new_state, 1e-4)


def test_gradients_reach_the_weights_of_the_token_before() -> None:
    model = adapted(key_tokens=2)
    step = Step(live_state(model, 1))
    model(tokens(1, 5), memory=step, use_cache=False)
    again = Step(step.new_state, write=False)
    model(tokens(1, 5), memory=again, use_cache=False).logits.sum().backward()
    for memory in deltamem.attached(model).memories():
        assert memory.projection.grad[-memory.config.width :].any()


def test_what_cannot_have_them_says_so() -> None:
    with pytest.raises(ValueError, match="key_tokens must be 1, or 2 with write='token', not 3"):
        DeltaMemConfig(key_tokens=3)
    with pytest.raises(ValueError, match="key_tokens must be 1, or 2 with write='token', not 2"):
        DeltaMemConfig(key_tokens=2, write="message")
    model = adapted(key_tokens=2)
    with pytest.raises(ValueError, match="write addresses of one token"):
        model(tokens(1, 3), memory=Step(MemoryState.zeros(3, 1, 1, 4)))


def test_the_release_has_no_such_adapter(tmp_path: Path) -> None:
    model = adapted(key_tokens=2)
    deltamem.save_adapter(model, tmp_path / "ours")
    file = read_adapter(tmp_path / "ours")
    assert file.config.key_tokens == 2
    with pytest.raises(deltamem.AdapterFileError, match="key_tokens=1"):
        write_release(file, tmp_path / "theirs")
