"""The toy world as training data of ``deltamem train``."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from deltamem.demo.episodes import EpisodeSampler, Mix
from deltamem.demo.lessons import DialogueTokens
from deltamem.demo.world import sample_dialogue
from deltamem.train.episodes import Episode, EpisodeBatch
from deltamem.train.strangers import Strangers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class WorldBatches(Dataset[EpisodeBatch]):
    """The batch of each step, sampled when it is asked for."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return self.sampler.steps

    def __getitem__(self, index: int) -> EpisodeBatch:
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)}.")
        return self.sampler.batch_at(index)


class WorldEpisodes(Dataset[Episode]):
    """Held-out dialogues with their questions, in the vocabulary that training never sees."""

    def __init__(self, episodes: list[Episode]) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]


def training_batches(
    tokenizer: "PreTrainedTokenizerFast", *, steps: int, max_facts: int, seed: int = 0, **mix: Any
) -> WorldBatches:
    """Batches of dialogues that grow over the training, for a recipe's ``data.source``.

    Args:
        tokenizer: the embedded backbone's.
        steps: how many.
        max_facts: the most facts of a dialogue.
        seed: another seed, other dialogues.
        mix: the other fields of :class:`~deltamem.demo.episodes.Mix`.
    """
    return WorldBatches(EpisodeSampler(tokenizer, Mix(max_facts=max_facts, **mix), steps=steps, seed=seed))


def stranger_batches(tokenizer: "PreTrainedTokenizerFast", **options: Any) -> Strangers:
    """The same batches, in which every question meets another dialogue's memory."""
    return Strangers(training_batches(tokenizer, **options))


def held_out_episodes(
    tokenizer: "PreTrainedTokenizerFast",
    *,
    dialogues: int = 32,
    facts: int = 4,
    seed: int = 0,
    attributes: Sequence[str] = (),
) -> WorldEpisodes:
    """Dialogues of the held-out split, each asked about all its facts.

    Args:
        tokenizer: the embedded backbone's.
        dialogues: how many.
        facts: in each.
        seed: another seed, other dialogues.
        attributes: what the facts are about; all attributes by default.
    """
    rng, tokens = random.Random(f"held-out recall/{seed}"), DialogueTokens(tokenizer)
    episodes = []
    for _ in range(dialogues):
        dialogue = sample_dialogue(rng, facts=facts, split="test", attributes=attributes)
        history = tokens.passages([(message, 0.0) for message in dialogue.messages])
        queries = tuple(tokens.exchange([(asked.ask, asked.answer)]) for asked in dialogue.questions)
        episodes.append(Episode(history, queries))
    return WorldEpisodes(episodes)
