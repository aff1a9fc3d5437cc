"""Views: what a query sees, how they are drawn, and what they train."""

import dataclasses

import pytest
import torch
from pairs import pair_batch, small_model
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3ForCausalLM

from deltamem import Step, attached
from deltamem.state import MemoryState
from deltamem.train import Episode, EpisodeBatch, EpisodeObjective, ObjectiveOptions, Text, collate
from deltamem.train.views import View, full_texts, sample_views


def seen(model: Qwen3ForCausalLM, batch: EpisodeBatch, **shares: float) -> float:
    return EpisodeObjective(model, ObjectiveOptions(**shares))(batch).loss.item()  # type: ignore[arg-type]


def written(model: Qwen3ForCausalLM, batch: EpisodeBatch) -> MemoryState:
    told = batch.passages[0]
    step = Step(attached(model).new_state(8), segment_ids=told.segments, close=True)
    model(told.ids, memory=step, use_cache=False)
    return step.new_state


def loss_of(model: Qwen3ForCausalLM, ids: Tensor, step: Step) -> float:
    logits = model(ids, memory=step, use_cache=False).logits[:, -2]
    return F.cross_entropy(logits, ids[:, -1]).item()


@pytest.mark.parametrize("kind", ["token", "message"])
def test_the_view_with_state_and_text_has_both(kind: str) -> None:
    model, batch = small_model(kind, init_gain=0.5), pair_batch(0)
    ids = torch.cat([batch.passages[0].ids[batch.episode_of], batch.queries.ids], 1)
    state = written(model, batch).select(batch.episode_of)
    expected = loss_of(model, ids, Step(state, write=False))
    assert seen(model, batch, state_and_text=1.0) == pytest.approx(expected, rel=1e-5)
    # Queries that write as they are read would write their history a second time: here they only read.
    assert seen(model, dataclasses.replace(batch, write_queries=True), state_and_text=1.0) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["token", "message"])
def test_the_view_without_memory_writes_the_text_that_it_sees_into_an_empty_one(kind: str) -> None:
    model, batch = small_model(kind, init_gain=0.5), pair_batch(0)
    told = batch.passages[0]
    ids = torch.cat([told.ids[batch.episode_of], batch.queries.ids], 1)
    own = batch.queries.segments
    segments = torch.cat([told.segments[batch.episode_of], torch.where(own < 0, own, own + 2)], 1)
    step = Step(attached(model).new_state(len(ids)), segment_ids=segments)
    assert seen(model, batch, no_memory=1.0) == pytest.approx(loss_of(model, ids, step), rel=1e-5)


@pytest.mark.parametrize("share", ["state_and_text", "no_memory"])
def test_every_view_trains_the_adapter(share: str) -> None:
    model = small_model(init_gain=0.5)
    EpisodeObjective(model, ObjectiveOptions(**{share: 1.0}))(pair_batch(0)).loss.backward()  # type: ignore[arg-type]
    for memory in attached(model).memories():
        assert memory.heads.grad.abs().max() > 0
        assert memory.projection.grad.abs().max() > 0


@pytest.mark.parametrize("write_queries", [False, True])
def test_a_batch_of_several_views_costs_what_its_episodes_cost_one_by_one(write_queries: bool) -> None:
    model, batch = small_model(init_gain=0.5), pair_batch(3, write_queries=write_queries)
    options = ObjectiveOptions(state_and_text=0.3, no_memory=0.3)
    views = sample_views(batch, state_and_text=0.3, no_memory=0.3, seed="0/0")
    assert set(views.tolist()) == set(View)
    whole = EpisodeObjective(model, options)(batch).loss.item()
    alone = []
    for episode in range(8):
        rows = batch.episode_of == episode
        queries = type(batch.queries)(*(field[rows] for field in vars(batch.queries).values()))
        told = type(queries)(*(field[episode : episode + 1] for field in vars(batch.passages[0]).values()))
        one = EpisodeBatch((told,), queries, torch.zeros(2, dtype=torch.int64), write_queries)
        alone.append(EpisodeObjective(model, options)(one).loss.item())
    assert whole == pytest.approx(sum(alone) / 8, rel=1e-5)


def test_views_come_in_their_shares_and_are_the_same_again() -> None:
    batches = [pair_batch(number) for number in range(60)]

    def draw(seed: str) -> Tensor:
        return torch.cat([sample_views(b, state_and_text=0.2, no_memory=0.3, seed=seed) for b in batches])

    views = draw("0/1")
    shares = torch.bincount(views, minlength=3) / len(views)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.2, 0.3]), atol=0.06, rtol=0)
    assert torch.equal(views, draw("0/1"))
    assert not torch.equal(views, draw("0/2"))


def test_another_step_draws_other_views() -> None:
    model = small_model(init_gain=0.5)
    objective = EpisodeObjective(model, ObjectiveOptions(no_memory=0.5))
    losses = [objective(pair_batch(0), step).loss.item() for step in (0, 1, 2, 0)]
    assert losses[0] == losses[3]
    assert len(set(losses)) > 1


def test_joined_texts_keep_passages_and_queries_apart() -> None:
    first, second = Text((1, 2, 3), (0.0, 0.5, 0.5), (0, 0, 1)), Text((4, 5), (0.0, 0.0), (0, -1))
    query = Text((6, 7, 8), (1.0, 0.0, 1.0), (0, 0, -1))
    short = Episode((Text((9,), (0.0,), (0,)),), (query,))
    batch = collate([Episode((first, second), (query,)), short], 0)
    texts = full_texts(batch)
    assert texts.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [9, 6, 7, 8, 0, 0, 0, 0]]
    assert texts.segments.tolist() == [[0, 0, 1, 2, -1, 3, 3, -1], [0, 1, 1, -1, -1, -1, -1, -1]]
    assert texts.weights.tolist() == [[0] * 7 + [1], [0, 0, 0, 1, 0, 0, 0, 0]]


def test_a_query_that_does_not_fit_is_refused() -> None:
    batch = pair_batch(0)
    assert full_texts(batch, 4).ids.tolist() == batch.queries.ids.tolist()
    with pytest.raises(ValueError, match="do not fit into 1 positions"):
        full_texts(batch, 1)
