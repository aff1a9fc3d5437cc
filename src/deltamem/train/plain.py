"""Prompts that need no memory, beside the episodes of a training: what the preservation term reads."""

import dataclasses
import random
from collections.abc import Sized
from typing import Any

from torch.utils.data import Dataset

from deltamem.train.episodes import Episode, EpisodeBatch


class WithPlain(Dataset[Episode]):
    """A dataset of episodes, each of which brings one prompt along that needs no memory.

    Along an order drawn once, every prompt comes before one comes again; an episode has the same one in every epoch.

    Args:
        dataset: of :class:`Episode`.
        prompts: of :class:`Episode` whose queries are the prompts, such as an ``EpisodeDataset(plain=True)``.
        seed: another seed, another order.

    Raises:
        ValueError: the dataset has ready batches.
    """

    def __init__(self, dataset: Dataset[Any], prompts: Dataset[Episode], seed: int = 0) -> None:
        if isinstance(dataset[0], EpisodeBatch):
            raise ValueError(
                "The data has ready batches: give those EpisodeBatch.plain, and leave out the recipe's plain."
            )
        assert isinstance(dataset, Sized)
        assert isinstance(prompts, Sized)
        self.dataset = dataset
        self.prompts = prompts
        self.digest = " ".join(str(getattr(part, "digest", None)) for part in (dataset, prompts))
        self.lengths = getattr(dataset, "lengths", None)
        self.texts = getattr(dataset, "texts", None)
        self._size = len(dataset)
        self._order = list(range(len(prompts)))
        random.Random(f"plain {seed}").shuffle(self._order)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Episode:
        episode: Episode = self.dataset[index]
        prompt = self.prompts[self._order[index % len(self._order)]]
        return dataclasses.replace(episode, plain=prompt.queries)
