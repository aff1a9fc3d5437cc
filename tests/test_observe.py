"""Texts of any length go into the memory in chunks, without logits."""

import pytest
import torch

import deltamem
from tiny import adapted, assert_same_state, live_state, tokens


@pytest.fixture
def model():
    return adapted()


def test_one_chunk_is_one_forward_pass(model):
    ids, state = tokens(2, 20), live_state(model, 2)
    step = deltamem.Step(state)
    with torch.no_grad():
        model(ids, memory=step, use_cache=False)
    assert_same_state(deltamem.observe(model, ids, state), step.new_state)


def test_chunks_carry_the_memory_and_only_the_memory(model):
    ids = tokens(1, 20)
    first = deltamem.observe(model, ids[:, :8])
    by_hand = deltamem.observe(model, ids[:, 8:16], first)
    by_hand = deltamem.observe(model, ids[:, 16:], by_hand)
    assert_same_state(deltamem.observe(model, ids, chunk_size=8), by_hand)
    assert deltamem.observe(model, ids, chunk_size=8).tokens.tolist() == [20]


def test_no_logits_are_computed(model):
    def refuse(*_):
        raise AssertionError("The language-model head ran.")

    model.lm_head.register_forward_pre_hook(refuse)
    deltamem.observe(model, tokens(1, 20), chunk_size=8)


def test_no_chunk_is_longer_than_the_backbone_has_positions(model):
    lengths = []
    base = deltamem.attached(model).base
    base.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    deltamem.observe(model, tokens(1, 600), chunk_size=10_000)
    assert lengths == [256, 256, 88]


def test_a_padded_row_equals_the_row_alone(model):
    ids = tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    together = deltamem.observe(model, ids, attention_mask=mask, chunk_size=8)
    assert_same_state(together.row(1), deltamem.observe(model, ids[1:, :13], chunk_size=8))


def test_a_segment_may_span_chunks():
    model = adapted(write="message", layers=(0,))
    ids = tokens(1, 20)
    segments = torch.tensor([[0] * 5 + [1] * 11 + [-1] * 2 + [2] * 2])
    whole = deltamem.observe(model, ids, segment_ids=segments)
    one_segment_in_two_calls = deltamem.observe(model, ids[:, :5], segment_ids=segments[:, :5], close=False)
    assert one_segment_in_two_calls.open.count.tolist() == [5]
    assert whole.open.count.tolist() == [0]
    assert whole.tokens.tolist() == [18]


def test_tokens_that_may_not_write_leave_no_trace(model):
    ids, state = tokens(1, 12), live_state(model)
    silent = deltamem.observe(model, ids, state, write=torch.zeros(1, 12, dtype=torch.bool))
    torch.testing.assert_close(silent.states, state.states, rtol=0, atol=0)
    assert silent.tokens.tolist() == [0]
