"""The objective: what it counts, what it does not see, and where its gradient flows."""

import dataclasses
from typing import Any

import pytest
import torch
from pairs import pair_batch, small_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PreTrainedConfig,
    Qwen3ForCausalLM,
)

from deltamem import Family, Step, attach, attached, register_family
from deltamem.train import Episode, Text, TextBatch, collate, episode_loss, read, write
from deltamem.train.passes import answers

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return small_model()


@pytest.mark.parametrize("kind", ["token", "message"])
def test_the_loss_is_the_cross_entropy_of_the_answers_given_the_memory(kind: str) -> None:
    model = small_model(kind)
    batch = pair_batch(0)
    loss = episode_loss(model, batch).loss.item()

    told = batch.passages[0]
    step = Step(attached(model).new_state(8), segment_ids=told.segments, close=True)
    model(told.ids, memory=step, use_cache=False)
    expected = []
    for row, episode in enumerate(batch.episode_of.tolist()):
        ids = batch.queries.ids[row : row + 1]
        reading = Step(step.new_state.row(episode), write=False)
        logits = model(ids, memory=reading, use_cache=False).logits[0, -2]
        expected.append(torch.nn.functional.cross_entropy(logits, ids[0, -1]).item())
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_only_the_adapter_gets_a_gradient_and_it_comes_through_the_write(model: Qwen3ForCausalLM) -> None:
    episode_loss(model, pair_batch(0)).loss.backward()
    memories = attached(model).memories()
    ours = {id(p) for memory in memories for p in memory.parameters()}
    assert all((p.grad is not None) == (id(p) in ours) for p in model.parameters())
    for memory in memories:
        width = memory.config.width
        value_rows = memory.projection.grad[2 * width : 3 * width]  # used by writes alone
        assert value_rows.abs().max() > 0


def test_the_loss_does_not_see_the_history_but_through_the_memory(model: Qwen3ForCausalLM) -> None:
    batch = pair_batch(0)
    told = batch.passages[0]
    other = dataclasses.replace(told, ids=told.ids.flip(0))
    changed = dataclasses.replace(batch, passages=(other,))
    assert episode_loss(model, batch).loss.item() != episode_loss(model, changed).loss.item()
    for memory in attached(model).memories():
        memory.heads.data.zero_()
    assert episode_loss(model, batch).loss.item() == episode_loss(model, changed).loss.item()


def test_trained_tokens_of_a_history_count_by_their_weight(model: Qwen3ForCausalLM) -> None:
    query = Text((3, 4), (0.0, 1.0), (0, 0))
    told = Text((1, 2, 5), (0.0, 0.0, 0.5), (0, 0, 0))
    both = episode_loss(model, collate([Episode((told,), (query,))], 0)).loss.item()

    plain = dataclasses.replace(told, weights=(0.0,) * 3)
    asked = episode_loss(model, collate([Episode((plain,), (query,))], 0)).loss.item()
    _, hidden = write(model, attached(model).new_state(1), TextBatch.pad([told], 0))
    logits = model.lm_head(hidden[0, 1])
    inside = torch.nn.functional.cross_entropy(logits, torch.tensor(5)).item()
    assert both == pytest.approx((asked + 0.5 * inside) / 1.5, rel=1e-5)


def test_padding_changes_nothing(model: Qwen3ForCausalLM) -> None:
    text = Text((1, 2, 3), (0.0, 0.0, 1.0), (0, 0, 0))
    longer = Text(tuple(range(1, 9)), (0.0,) * 8, (0,) * 8)
    alone, hidden = write(model, attached(model).new_state(1), TextBatch.pad([text], 0))
    padded, wide = write(model, attached(model).new_state(2), TextBatch.pad([text, longer], 0))
    torch.testing.assert_close(padded.row(0).states, alone.states)
    torch.testing.assert_close(wide[:1, :3], hidden)


def test_a_pass_chooses_attention_for_no_other_thread_and_leaves_the_model_as_it_was(model: Qwen3ForCausalLM) -> None:
    chosen: list[tuple[str, bool]] = []

    def note(*_: object) -> None:
        chosen.append((model.config._attn_implementation, torch.backends.cuda.flash_sdp_enabled()))

    model.model.layers[0].register_forward_hook(note)
    batch = pair_batch(4)
    state = attached(model).new_state(len(batch.passages[0].ids))
    short, _ = write(model, state, batch.passages[0])
    assert chosen == [("deltamem_blocks", True)]
    assert model.config._attn_implementation == "sdpa"
    step = Step(state, mask=batch.passages[0].mask, segment_ids=batch.passages[0].segments, close=True)
    model.model(batch.passages[0].ids, memory=step, use_cache=False)
    assert short.diff(step.new_state).norm() < 1e-5


def test_a_second_passage_does_not_see_the_text_of_the_first(model: Qwen3ForCausalLM) -> None:
    first, second = (Text(ids, (0.0,) * 3, (0,) * 3) for ids in ((1, 2, 3), (4, 5, 6)))
    batch = collate([Episode((first, second), (Text((7, 8), (0.0, 1.0), (0, 0)),))], 0)
    state = attached(model).new_state(1)
    for passage in (first, second):
        state, _ = write(model, state, TextBatch.pad([passage], 0))
    hidden = read(model, state, batch.queries)
    expected = torch.nn.functional.cross_entropy(model.lm_head(hidden[:, 0]), torch.tensor([8])).item()
    assert episode_loss(model, batch).loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["token", "message"])
def test_queries_may_write_as_they_are_read(kind: str) -> None:
    model = small_model(kind)
    silent, writing = pair_batch(0), pair_batch(0, write_queries=True)
    assert episode_loss(model, silent).loss.item() != episode_loss(model, writing).loss.item()


def test_recall_is_the_share_of_queries_right_to_the_last_token(model: Qwen3ForCausalLM) -> None:
    batch = pair_batch(0)
    state, _ = write(model, attached(model).new_state(8), batch.passages[0])
    hidden = read(model, state.select(batch.episode_of), batch.queries)
    likeliest = model.lm_head(hidden[:, 2]).argmax(-1)
    half = len(likeliest) // 2
    ids = batch.queries.ids.clone()
    ids[:, 3] = (likeliest + 1) % 40
    ids[:half, 3] = likeliest[:half]
    changed = dataclasses.replace(batch, queries=dataclasses.replace(batch.queries, ids=ids))
    assert episode_loss(model, changed).recall == 0.5


def test_a_backbone_that_rescales_its_logits_in_an_unknown_way_is_refused(model: Qwen3ForCausalLM) -> None:
    model.config.output_multiplier = 0.5
    with pytest.raises(ValueError, match="output_multiplier"):
        episode_loss(model, pair_batch(0))


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
        GraniteConfig(**SIZES, logits_scaling=3.0),
        CohereConfig(**SIZES, logit_scale=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_are_those_of_the_model_itself(config: PreTrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    register_family(Family("CohereAttention"))
    attach(model)
    text = TextBatch.pad([Text((1, 2, 3, 4), (0.0, 1.0, 1.0, 1.0), (0,) * 4)], 0)
    state = attached(model).new_state(1)
    logits = answers(model, read(model, state, text), text).logits
    expected = model(text.ids, memory=Step(state, write=False), use_cache=False).logits
    torch.testing.assert_close(logits, expected[0, :-1])
