"""Episodes with another's history in the place of their own: what can be learned from them is everything but memory."""

import dataclasses
import random
from collections.abc import Sequence, Sized
from typing import Any

from torch.utils.data import Dataset

from deltamem.train.episodes import Episode, EpisodeBatch, joined
from deltamem.train.views import full_texts


class Strangers(Dataset[Any]):
    """A dataset in which every query meets the memory of a stranger.

    The static control is trained on this, and the loss under another row's state is measured on it. Of a dataset of
    episodes, each gets the history of another one, drawn once; of one of ready batches, that of the next row of its
    batch that has another. What shows the text, a teacher for example, still shows the query's own: only the memory is
    strange.

    Args:
        dataset: of :class:`Episode` or of :class:`EpisodeBatch`.
        seed: another seed, other strangers.

    Raises:
        ValueError: no two episodes have different histories.
    """

    def __init__(self, dataset: Dataset[Any], seed: int = 0) -> None:
        self.dataset = dataset
        self.lengths = getattr(dataset, "lengths", None)
        self._others = [] if isinstance(dataset[0], EpisodeBatch) else _others(texts_of(dataset), seed)

    def __len__(self) -> int:
        return _size(self.dataset)

    def __getitem__(self, index: int) -> Episode | EpisodeBatch:
        item = self.dataset[index]
        if isinstance(item, EpisodeBatch):
            return turn_rows(item)
        episode: Episode = item
        return _meeting(episode, self.dataset[self._others[index]])


def with_strangers(episodes: Sequence[Episode], seed: int) -> list[Episode]:
    """The episodes, each with the history of another of them; what shows the text still shows its own.

    Raises:
        ValueError: no two episodes have different histories.
    """
    others = _others([hash(episode.history) for episode in episodes], seed)
    return [_meeting(episode, episodes[other]) for episode, other in zip(episodes, others, strict=True)]


def _meeting(episode: Episode, other: Episode) -> Episode:
    full = episode.full or tuple(joined(episode.history, query) for query in episode.queries)
    return dataclasses.replace(episode, history=other.history, full=full)


def turn_rows(batch: EpisodeBatch) -> EpisodeBatch:
    """The batch with each query reading the memory of the next row of another history; the text stays its own.

    Raises:
        ValueError: all histories are the same.
    """
    others = batch.strangers()
    if others is None:
        raise ValueError(
            "To read another row's memory, a batch needs episodes with different histories; "
            f"all {batch.rows} of this one have the same."
        )
    return dataclasses.replace(batch, episode_of=others[batch.episode_of], full=full_texts(batch))


def _others(texts: Sequence[int], seed: int) -> list[int]:
    """For each episode, given by a number for its text, the place of another with a different text.

    Along a random order, an episode meets the one half way round, or the next after it that differs: several
    questions about one text must not meet that text.
    """
    count = len(texts)
    order = list(range(count))
    random.Random(f"strangers {seed}").shuffle(order)
    others = [0] * count
    for place, index in enumerate(order):
        for step in range(count):
            other = order[(place + count // 2 + step) % count]
            if texts[other] != texts[index]:
                break
        else:
            raise ValueError(
                f"All {count} episodes have the same history, so there is no stranger among them. Give data with more "
                "histories, or hold out more of it (evaluation.held_out)."
            )
        others[index] = other
    return others


def texts_of(dataset: Dataset[Any]) -> list[int]:
    """A number for each item, the same for episodes whose histories are of one text. Batches share none."""
    numbers: list[int] | None = getattr(dataset, "texts", None)
    if numbers is not None:
        return numbers
    items = (dataset[index] for index in range(_size(dataset)))
    return [place if isinstance(item, EpisodeBatch) else hash(item.history) for place, item in enumerate(items)]


def _size(dataset: Dataset[Any]) -> int:
    assert isinstance(dataset, Sized)
    return len(dataset)
