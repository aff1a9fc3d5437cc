"""Episodes become padded batches without losing a token, and groups of like length."""

import pytest
import torch

from deltamem.train import Episode, Text, TextBatch, collate, evenly
from deltamem.train.hf import as_batch

PAD = 9


def text(length: int, first: int = 1) -> Text:
    return Text(tuple(range(first, first + length)), (0.0,) * (length - 1) + (1.0,), (0,) * length)


def test_a_text_needs_a_weight_and_a_segment_for_every_token() -> None:
    with pytest.raises(ValueError, match="3 tokens, 2 weights and 3 segments"):
        Text((1, 2, 3), (0.0, 1.0), (0, 0, 0))


def test_padding_is_on_the_right_and_neutral() -> None:
    batch = TextBatch.pad([text(2), text(4), Text((), (), ())], PAD)
    assert batch.ids.tolist() == [[1, 2, PAD, PAD], [1, 2, 3, 4], [PAD] * 4]
    assert batch.mask.sum(1).tolist() == [2, 4, 0]
    assert batch.weights.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0] * 4]
    assert batch.segments.tolist() == [[0, 0, -1, -1], [0] * 4, [-1] * 4]


def test_a_batch_knows_whose_query_is_whose() -> None:
    episodes = [
        Episode((text(3), text(2)), (text(4), text(5))),
        Episode((text(6),), ()),
        Episode((text(1),), (text(2),)),
    ]
    batch = collate(episodes, PAD)
    assert batch.episode_of.tolist() == [0, 0, 2]
    assert batch.queries.mask.sum(1).tolist() == [4, 5, 2]
    assert [passage.mask.sum(1).tolist() for passage in batch.passages] == [[3, 6, 1], [2, 0, 0]]


def test_a_batch_without_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        collate([Episode((text(3),), ())], PAD)


def test_a_query_that_trains_no_token_is_refused() -> None:
    """Its loss was not a number, its recall 1, and the loss that was logged doubled."""
    silent = Text((1, 2, 3), (1.0, 0.0, 0.0), (0, 0, 0))  # nothing predicts the first token
    with pytest.raises(ValueError, match=r"Query 2 of episode 2 of the batch trains no token.*or leave the query out"):
        collate([Episode((text(3),), (text(2),)), Episode((text(3),), (text(2), silent))], PAD)
    ready = collate([Episode((text(3),), (text(2), text(3)))], PAD)
    ready.queries.weights[1] = 0
    with pytest.raises(ValueError, match="Query 2 of the batch trains no token"):
        as_batch([ready], PAD)


def test_groups_hold_everything_once_in_order_of_length_and_are_alike_in_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (64,), generator=generator).tolist()
    groups = evenly([Episode((text(length),), ()) for length in lengths], 8)
    assert [e.tokens for group in groups for e in group] == sorted(lengths)
    totals = [sum(e.tokens for e in group) for group in groups]
    assert len(groups) == 8
    assert max(totals) - min(totals) <= 60


def test_one_very_long_episode_leaves_no_group_empty() -> None:
    groups = evenly([Episode((text(length),), ()) for length in (1, 1, 1, 500)], 4)
    assert [len(group) for group in groups] == [1, 1, 1, 1]


def test_too_few_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 episodes cannot fill 2 groups"):
        evenly([Episode((text(3),), ())], 2)
