"""Batches of like length: complete, repeatable, resumable, and fit for several processes."""

import random
from itertools import chain

import pytest
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from deltamem.train.data import LengthGroupedBatches

LENGTHS = [random.Random(n).randint(1, 500) for n in range(103)]


@given(st.lists(st.integers(1, 99), max_size=60), st.integers(1, 7), st.integers(1, 12))
def test_every_episode_is_in_one_batch_and_only_the_last_is_short(
    lengths: list[int], batch_size: int, together: int
) -> None:
    sampler = LengthGroupedBatches(lengths, batch_size, together=together)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    whole = list(LengthGroupedBatches(lengths, batch_size, together=together, drop_last=True))
    assert whole == [batch for batch in batches if len(batch) == batch_size]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthGroupedBatches(LENGTHS, 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def padding(batches: list[list[int]]) -> int:
    return sum(max(LENGTHS[i] for i in batch) - LENGTHS[j] for batch in batches for j in batch)


def test_an_update_is_a_random_draw() -> None:
    updates = [sorted(chain(*batches)) for batches in by_update(LengthGroupedBatches(LENGTHS, 2, together=8))]
    assert updates == [sorted(batch) for batch in LengthGroupedBatches(LENGTHS, 16)]


def test_like_lengths_are_together_within_an_update() -> None:
    grouped = padding(list(LengthGroupedBatches(LENGTHS, 4, together=8)))
    assert grouped < padding(list(LengthGroupedBatches(LENGTHS, 4))) / 3
    # Batches used at the same time are of like length too.
    for batches in by_update(LengthGroupedBatches(LENGTHS, 4, together=8)):
        lengths = [LENGTHS[i] for batch in batches for i in batch]
        assert lengths == sorted(lengths)


def by_update(sampler: LengthGroupedBatches) -> list[list[list[int]]]:
    batches = list(sampler)
    return [batches[i : i + sampler.together] for i in range(0, len(batches), sampler.together)]


def test_accelerate_shares_the_batches_between_processes() -> None:
    sampler = LengthGroupedBatches(LENGTHS[:96], 4, together=2)
    shards = [list(BatchSamplerShard(sampler, 2, rank)) for rank in (0, 1)]
    assert [batch for pair in zip(*shards, strict=True) for batch in pair] == list(sampler)


def test_accelerate_sets_the_epoch() -> None:
    sampler = LengthGroupedBatches(LENGTHS[:96], 4)
    loader = DataLoader(list(range(96)), batch_sampler=sampler, collate_fn=list)
    for processes in (1, 2):
        prepared = prepare_data_loader(loader, num_processes=processes, process_index=0, put_on_device=False)
        prepared.set_epoch(3)
        assert sampler.epoch == 3
        sampler.set_epoch(0)


@pytest.mark.parametrize("field", ["batch_size", "together"])
def test_sizes_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be positive"):
        LengthGroupedBatches(LENGTHS, **{"batch_size": 1, field: 0})
