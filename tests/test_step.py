"""One forward pass's dealings with the memory."""

import pytest
import torch

import deltamem
import plain
from deltamem import DeltaMemConfig, MemoryState, Step
from tiny import adapted, assert_same_state, live_state, tokens


def state(batch: int = 2) -> MemoryState:
    return MemoryState.zeros(1, batch, 1, 3)


def test_a_step_serves_one_pass() -> None:
    memory = plain.layer(DeltaMemConfig(rank=3))
    _, step = plain.forward(memory, torch.randn(2, 4, 6), Step(state()))
    with pytest.raises(RuntimeError, match="make a new Step"):
        plain.forward(memory, torch.randn(2, 4, 6), step)


def test_a_step_that_met_no_model_says_so() -> None:
    model, step = adapted(), Step(state())
    with torch.no_grad(), deltamem.disabled(model):
        model(tokens(2, 4), memory=step)
    with pytest.raises(RuntimeError, match=r"No memory has used.*not while its memory is disabled"):
        _ = step.new_state


def test_an_unfinished_pass_has_no_new_state() -> None:
    step = Step(state())
    step.begin(DeltaMemConfig(rank=3), 2, 4, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="not finished"):
        _ = step.new_state


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda: Step(state(3)), "3 rows and the input 2"),
        (lambda: Step(state(), mask=torch.ones(2, 5)), "mask has shape"),
        (lambda: Step(state(), mask=torch.ones(4)), "mask has shape"),
        (lambda: Step(state(), write=torch.ones(3, 4)), "write has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(step: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plain.forward(plain.layer(DeltaMemConfig(rank=3)), torch.randn(2, 4, 6), step())  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_segment_ids_are_integers(dtype: torch.dtype) -> None:
    model = adapted(write="message")
    step = Step(deltamem.new_state(model), segment_ids=torch.zeros(1, 4, dtype=dtype))
    with pytest.raises(ValueError, match="segment_ids must be integers, not torch"):
        model(tokens(1, 4), memory=step)


def test_missing_segment_ids_tell_where_to_get_them() -> None:
    model = adapted(write="message")
    with pytest.raises(ValueError, match=r"deltamem\.encode_chat\(\.\.\.\)\.segment has them"):
        model(tokens(1, 4), memory=Step(deltamem.new_state(model)))


def test_only_writable_tokens_write_and_all_read() -> None:
    memory = plain.layer(DeltaMemConfig(rank=3))
    x = torch.randn(2, 6, 6)
    write = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]]).bool()
    start = MemoryState((torch.randn(2, 1, 3, 3),), torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        found, step = plain.forward(memory, x, Step(start, write=write))
        parts = memory.named_parts()
        for row in range(2):
            after = start.states[0][row]
            for t in range(6):
                wanted = plain.corrections(memory.config, parts, plain.read(memory.config, parts, after, x[row, t]))
                torch.testing.assert_close(found["q"][row, t], wanted["q"])
                if write[row, t]:
                    after = plain.write(memory.config, parts, after, x[row, t])
            torch.testing.assert_close(step.new_state.states[0][row], after)
    assert step.new_state.tokens.tolist() == [3, 1]


def test_rows_can_be_shut_as_a_whole() -> None:
    model, ids = adapted(), tokens(2, 9)
    start = live_state(model, 2)
    some, both = Step(start, write=torch.tensor([[True], [False]])), Step(start)
    with torch.no_grad():
        model(ids, memory=some)
        model(ids, memory=both)
    assert_same_state(some.new_state.row(0), both.new_state.row(0))
    assert some.new_state.diff(start)[:, 1].max() == 0


def test_reading_only_leaves_the_memory_and_reads_one_state() -> None:
    model, ids = adapted(), tokens(2, 9)
    start = live_state(model, 2)
    step = Step(start, write=False)
    with torch.no_grad():
        whole = model(ids, memory=step).logits
        last = model(ids, memory=Step(start, write=torch.zeros(2, 9, dtype=torch.bool))).logits
    assert step.new_state is start
    torch.testing.assert_close(whole, last, rtol=1e-4, atol=1e-4)


def test_the_mask_of_the_step_goes_before_the_attention_mask() -> None:
    model, ids = adapted(), tokens(1, 9)
    mask = torch.arange(9)[None] < 4
    step = Step(deltamem.new_state(model), mask=mask)
    with torch.no_grad():
        model(ids, attention_mask=torch.ones_like(ids), memory=step)
    assert step.new_state.tokens.tolist() == [4]


def test_a_mask_of_other_dimensions_is_not_guessed_at() -> None:
    model, ids = adapted(attention="eager"), tokens(1, 5)
    mask = torch.zeros(1, 1, 5, 5)
    with pytest.raises(ValueError, match="two-dimensional"):
        model(ids, attention_mask=mask)
    step = Step(deltamem.new_state(model), mask=torch.ones(1, 5).bool())
    model(ids, attention_mask=mask, memory=step, use_cache=False)
    assert step.new_state.tokens.tolist() == [5]
