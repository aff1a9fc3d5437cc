"""Batches of like length: shuffled, and the same for the same seed and epoch."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of episodes with similar lengths within an update, for the ``batch_sampler`` of a DataLoader.

    Episodes are shuffled and cut into updates, so that each is a random draw of the data; within an update they are
    sorted by length and cut into batches, those that several processes take at the same time one after another. Only
    the last batch may be short.

    Args:
        lengths: the tokens of each episode.
        batch_size: episodes a batch.
        together: batches an update, over all processes; with 1 nothing is left to sort.
        seed: another seed, another order.
        drop_last: leave out the last batch if it is short.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, together: int = 1, seed: int = 0, drop_last: bool = False
    ) -> None:
        for name, value in (("batch_size", batch_size), ("together", together)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value}.")
        self.lengths = lengths
        self.batch_size = batch_size
        self.together = together
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0

    @property
    def sampler(self) -> "LengthGroupedBatches":
        """Itself: accelerate sets the epoch of a sharded batch sampler's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"batches {self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        update, size = self.batch_size * self.together, self.batch_size
        batches = []
        for begin in range(0, len(order), update):
            # accelerate takes a short batch for the end of the epoch, so it has to be there: the last of the last.
            episodes = sorted(order[begin : begin + update], key=self.lengths.__getitem__)
            batches += [episodes[i : i + size] for i in range(0, len(episodes), size)]
        yield from batches[: len(self)]
