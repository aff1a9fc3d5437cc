"""The toy world as training data of ``deltamem train``."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deltamem.demo.episodes import EpisodeSampler, Mix
from deltamem.demo.lessons import DialogueTokens
from deltamem.demo.world import sample_dialogue
from deltamem.train.episodes import Episode
from deltamem.train.strangers import Strangers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def training_batches(
    tokenizer: "PreTrainedTokenizerFast", *, steps: int, max_facts: int, seed: int = 0, **mix: Any
) -> EpisodeSampler:
    """Batches of dialogues that grow over the training, for a recipe's ``data.source``.

    Args:
        tokenizer: the embedded backbone's.
        steps: how many.
        max_facts: the most facts of a dialogue.
        seed: another seed, other dialogues.
        mix: the other fields of :class:`~deltamem.demo.episodes.Mix`.
    """
    return EpisodeSampler(tokenizer, Mix(max_facts=max_facts, **mix), steps=steps, seed=seed)


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
) -> list[Episode]:
    """Dialogues of the held-out split, in a vocabulary that training never sees, each asked about all its facts.

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
    return episodes
