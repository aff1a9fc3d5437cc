"""The measures: by hand, and on cases where memory can and cannot help."""

import math

import pytest
import torch
from pairs import pair_batch, small_model
from toy import Items, episodes
from transformers import Qwen3ForCausalLM

from deltamem import Step, attached, disabled
from deltamem.train import Episode, Text, collate
from deltamem.train.loading import split_off
from deltamem.train.measure import Condition, Measured, Tally, add, mean_loss, summarise, tally
from deltamem.train.report import measured_table
from deltamem.train.strangers import Strangers, turn_rows
from deltamem.train.views import full_texts


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return small_model(init_gain=0.5)


def by_hand(model: Qwen3ForCausalLM, ids: torch.Tensor, **keywords: object) -> float:
    logits = model(ids[None], use_cache=False, **keywords).logits[0, -2]
    return torch.nn.functional.cross_entropy(logits, ids[-1]).item()


@torch.no_grad()
def test_each_condition_is_the_loss_of_its_own_forward_pass(model: Qwen3ForCausalLM) -> None:
    batch = pair_batch(0)
    owners, told = batch.episode_of.tolist(), batch.passages[0].ids
    queries = list(zip(owners, batch.queries.ids, strict=True))
    with disabled(model):
        nothing = [by_hand(model, ids) for _, ids in queries]
        full = [by_hand(model, torch.cat([told[row], ids])) for row, ids in queries]

    def remembered(row: int, ids: torch.Tensor) -> float:
        step = Step(attached(model).new_state(1))
        model(told[row : row + 1], memory=step, use_cache=False)
        return by_hand(model, ids, memory=Step(step.new_state, write=False))

    own = [remembered(row, ids) for row, ids in queries]
    other = [remembered((row + 1) % 8, ids) for row, ids in queries]
    for condition, given, expected in [
        (Condition.NOTHING, batch, nothing),
        (Condition.FULL, batch, full),
        (Condition.MEMORY, batch, own),
        (Condition.MEMORY, turn_rows(batch), other),
    ]:
        counted = tally(model, given, condition)
        assert mean_loss(counted) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        assert counted.queries[:, 1].sum().item() == len(counted.queries) == len(owners)


def test_batches_add_up_to_one(model: Qwen3ForCausalLM) -> None:
    items = episodes(None, 6).items
    whole = tally(model, collate(items, 0), Condition.MEMORY)
    parts = add(tally(model, collate(part, 0), Condition.MEMORY) for part in (items[:2], items[2:]))
    torch.testing.assert_close(parts.queries, whole.queries.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.gates, whole.gates.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.norms, whole.norms.double(), rtol=1e-5, atol=1e-5)


def test_gates_and_norms_are_those_of_the_layers(model: Qwen3ForCausalLM) -> None:
    batch = pair_batch(0)
    nothing, own = (tally(model, batch, kind) for kind in (Condition.NOTHING, Condition.MEMORY))
    found = summarise(nothing, own, own, own, None)
    # Fresh gates have no weights: sigmoid of the bias everywhere.
    assert found.gates == pytest.approx([1 / (1 + math.exp(1.5))] * 2)
    assert len(found.norms) == 2
    assert min(found.norms) > 0
    assert "memory_share" not in found.metrics()


def test_the_shares_are_of_the_gap() -> None:
    found = Measured(2.795, 2.388, 2.553, 2.007, 2.409, 5, 10, 10, (0.2,), (1.0,))
    assert found.recovered_share == pytest.approx(0.52, abs=0.005)
    assert found.memory_share == pytest.approx(0.03, abs=0.005)


@pytest.mark.parametrize("full", [2.795, 2.79, 3.1])
def test_where_the_text_does_not_help_there_is_no_gap_to_have_a_share_of(full: float) -> None:
    found = Measured(2.795, 2.388, 2.553, full, 2.409, 5, 10, 10, (0.2,), (1.0,))
    assert found.recovered_share is None
    assert found.memory_share is None
    assert not {"recovered_share", "memory_share"} & found.metrics().keys()
    assert "no gap" in measured_table(found)


def test_an_adapter_that_does_nothing_recovers_nothing(model: Qwen3ForCausalLM) -> None:
    for memory in attached(model).memories():
        memory.heads.data.zero_()
    batch = pair_batch(0)
    nothing, own = (tally(model, batch, kind) for kind in (Condition.NOTHING, Condition.MEMORY))
    assert mean_loss(nothing) == mean_loss(own)


def test_strangers_have_other_histories_and_the_same_queries() -> None:
    told = [Text((i // 3, 5), (0.0, 0.0), (0, 0)) for i in range(12)]
    items = [Episode((text,), (Text((i, 7), (0.0, 1.0), (0, 0)),)) for i, text in enumerate(told)]
    strangers = Strangers(Items(items))
    assert len(strangers) == 12
    for i, item in enumerate(items):
        assert strangers[i].queries == item.queries  # type: ignore[union-attr]
        assert strangers[i].history != item.history  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"All 2 episodes have the same history, .*no stranger.*evaluation\.held_out"):
        Strangers(Items([items[0], items[1]]))


def test_a_ready_batch_is_turned_by_one_row() -> None:
    batch = pair_batch(0)
    turned = turn_rows(batch)
    assert turned.episode_of.tolist() == [(row + 1) % 8 for row in batch.episode_of.tolist()]
    assert turned.full is not None
    assert torch.equal(turned.full.ids, full_texts(batch).ids)
    one = episodes(None, 1).items
    for alone in (one, one * 3):
        with pytest.raises(ValueError, match="episodes with different histories"):
            turn_rows(collate(alone, 0))
    # Rows of the same history are passed over.
    assert turn_rows(collate([*one, *one, *episodes(None, 1, 5).items], 0)).episode_of.tolist() == [2, 2, 0]


def test_what_is_held_out_shares_no_history_with_the_rest() -> None:
    told = [Text((i // 3, 5), (0.0, 0.0), (0, 0)) for i in range(12)]
    items = Items([Episode((text,), (Text((i, 7), (0.0, 1.0), (0, 0)),)) for i, text in enumerate(told)])
    kept, held = split_off(items, 4, seed=0)
    assert (len(kept), len(held)) == (6, 6)
    assert not {kept[i].history for i in range(6)} & {held[i].history for i in range(6)}
    with pytest.raises(ValueError, match="cannot be held out"):
        split_off(items, 12, seed=0)


def test_histories_of_one_text_are_no_strangers_and_are_held_out_together() -> None:
    items = episodes(None, 8)
    items.texts = [0, 0, 0, 0, 1, 1, 1, 1]  # one conversation's turns: every history is another beginning of its text
    kept, held = split_off(items, 2, seed=0)
    assert sorted(map(set, (kept.texts, held.texts))) == [{0}, {1}]
    strangers = Strangers(items)
    told = [item.history for item in items.items]
    assert all(items.texts[told.index(strangers[i].history)] != items.texts[i] for i in range(8))
    # What shows the text shows the query's own.
    assert torch.equal(collate([strangers[i] for i in range(8)], 0).full.ids, full_texts(collate(items.items, 0)).ids)


def test_of_few_episodes_nothing_is_claimed() -> None:
    found = Measured(2.795, 2.388, 2.553, 2.007, 2.6, 1, 2, 2, (0.2,), (1.0,))
    table = measured_table(found)
    assert "Recall: 0.500 (0.09–0.91), 1 of 2 queries." in table
    assert "Cannot tell how much of the gain is memory: 0.269 of the gap" in table
    assert "2 queries of 2 episodes are too few for an interval" in table
    assert "**" not in table


def test_the_interval_of_the_share_covers_what_it_should() -> None:
    """Of many runs on episodes whose true share is 0.25, about 95 % have it in their interval."""
    generator, inside = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        noise = 0.5 * torch.randn(24, generator=generator, dtype=torch.float64).repeat_interleave(2)

        def tallied(loss: torch.Tensor) -> Tally:
            rows = torch.stack([loss, torch.ones(48), torch.zeros(48), torch.arange(24).repeat_interleave(2)], 1)
            one = torch.ones(1, dtype=torch.float64)
            return Tally(rows.double(), one, one, one[0])

        base = torch.full((48,), 3.0, dtype=torch.float64)
        own, static = tallied(base - 1 + noise), (base - 0.5).tolist()
        found = summarise(tallied(base), own, None, tallied(base - 2), 2.5, static)
        assert found.memory_interval is not None
        low, high = found.memory_interval
        inside += low <= 0.25 <= high
    assert 180 <= inside <= 199


@pytest.mark.parametrize(
    ("interval", "claim"),
    [
        ((0.1, 0.4), "**Memory: 0.246 of the gap, 95 % interval 0.100 to 0.400**, from 40 queries of 20 episodes"),
        ((-0.1, 0.6), "Cannot tell whether any of the gain is memory: 0.246 of the gap, 95 % interval -0.100 to 0.600"),
        ((-0.3, -0.1), "The memory does harm: "),
    ],
)
def test_the_card_claims_what_the_interval_allows(interval: tuple[float, float], claim: str) -> None:
    found = Measured(2.795, 2.388, None, 2.007, 2.582, 9, 40, 20, (0.2,), (1.0,), interval)
    assert claim in measured_table(found)
    assert found.metrics()["memory_share_low"] == interval[0]
