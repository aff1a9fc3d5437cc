"""Training episodes of the toy world: dialogues to remember, and the questions that follow when their text is gone."""

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from deltamem.demo.lessons import DialogueTokens
from deltamem.demo.world import (
    Event,
    Person,
    Question,
    Utterance,
    current_facts,
    question,
    sample_events,
    unanswerable_question,
)
from deltamem.train.episodes import Episode, EpisodeBatch, Text, collate, evenly

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_POOL = 16


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What the training dialogues are made of; shares lie in [0, 1].

    Attributes:
        max_facts: the most facts in a dialogue; the number is uniform from 1, and 0 in one of forty.
        plain: the share of the training that begins with one fact and its question, and nothing else, until
            writing, addressing and reading have found each other.
        grown: the share of the training after which dialogues have up to ``max_facts``; before, fewer.
        queries: the most questions asked of a memory.
        corrections: the chance that a fact is corrected later.
        long: dialogues of few facts that go on for another 6 to 14 exchanges of small talk.
        answered: dialogues in which some questions are asked and answered while the text is there.
        unanswerable: memories that are also asked something they were never told.
        paired: batches whose queries come in twos, the second after the first and its answer.
        cut: batches whose histories are written in two passes instead of one.
        write_queries: batches whose queries are written as they are read.
        episodes: episodes a step, on average.
        attributes: what facts and questions are about; all attributes of the lexicon by default.
    """

    max_facts: int
    plain: float = 0.08
    grown: float = 0.4
    queries: int = 4
    corrections: float = 0.2
    long: float = 0.05
    answered: float = 0.12
    unanswerable: float = 0.25
    paired: float = 0.1
    cut: float = 0.2
    write_queries: float = 0.2
    episodes: int = 16
    attributes: tuple[str, ...] = ()


class EpisodeSampler(Dataset[EpisodeBatch]):
    """The batch of each step of a training, sampled when it is asked for from the step's number alone.

    Args:
        steps: the length of the training, over which dialogues grow.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", mix: Mix, *, steps: int, seed: int = 0) -> None:
        self.tokens = DialogueTokens(tokenizer)
        self.mix = mix
        self.steps = steps
        self.seed = seed
        self._pool: tuple[int, list[list[Episode]]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> EpisodeBatch:
        if not 0 <= step < self.steps:
            raise IndexError(f"Batch {step} of {self.steps}.")
        number, place = divmod(step, _POOL)
        if self._pool[0] != number:
            self._pool = (number, self._sample_pool(number))
        rng = random.Random(f"batch {self.seed}/{step}")
        return collate(self._pool[1][place], self.tokens.pad_id, write_queries=rng.random() < self.mix.write_queries)

    def episode(self, rng: random.Random, max_facts: int, *, cut: float = 1.0, paired: bool = False) -> Episode:
        """One episode of at most ``max_facts`` facts, the share ``cut`` of its history in a passage of its own."""
        mix = self.mix
        long = rng.random() < mix.long
        facts = rng.randint(1, min(max_facts, 4) if long else max_facts) if rng.random() > 0.025 else 0
        small_talk = rng.randint(6, 14) if long else rng.choice((0, 0, 1, 2))
        corrections = sum(rng.random() < mix.corrections for _ in range(facts))
        events, people = sample_events(
            rng, facts=facts, corrections=corrections, small_talk=small_talk, attributes=mix.attributes
        )
        questions = self._ask(rng, events, people)
        turns = self._turns(rng, events, people)
        middle = round(cut * len(turns))
        history = (*self.tokens.passages(turns[:middle]), *self.tokens.passages(turns[middle:]))
        return Episode(history, self._queries(questions, 2 if paired else 1))

    def _sample_pool(self, number: int) -> list[list[Episode]]:
        rng = random.Random(f"pool {self.seed}/{number}")
        max_facts = self._max_facts(number * _POOL / self.steps)
        if not max_facts:
            return evenly([self._plain(rng) for _ in range(_POOL * self.mix.episodes)], _POOL)
        kinds = Counter((rng.random() < self.mix.cut, rng.random() < self.mix.paired) for _ in range(_POOL))
        groups: list[list[Episode]] = []
        for (cut, paired), count in sorted(kinds.items()):
            wanted = range(count * self.mix.episodes)
            # Cut at about the same place, so that little of either pass is padding.
            share = rng.random() if cut else 1.0
            groups += evenly([self.episode(rng, max_facts, cut=share, paired=paired) for _ in wanted], count)
        rng.shuffle(groups)
        return groups

    def _max_facts(self, progress: float) -> int:
        """The most facts of a dialogue after a share of the training; 0 while dialogues are plain."""
        mix = self.mix
        if progress < mix.plain:
            return 0
        grown = 1.0 if progress >= mix.grown else (progress - mix.plain) / (mix.grown - mix.plain)
        return min(mix.max_facts, 2 + int(grown * (mix.max_facts - 1)))

    def _plain(self, rng: random.Random) -> Episode:
        events, people = sample_events(rng, facts=1, attributes=self.mix.attributes)
        history = self.tokens.passages([(message, 0.0) for event in events for message in event.messages])
        asked = question(rng, current_facts(events)[0], people)
        return Episode(history, self._queries([asked], 1))

    def _ask(self, rng: random.Random, events: list[Event], people: tuple[Person, ...]) -> list[Question]:
        facts = current_facts(events)
        asked = [question(rng, fact, people) for fact in rng.sample(facts, min(self.mix.queries, len(facts)))]
        if not facts or rng.random() < self.mix.unanswerable:
            asked.append(unanswerable_question(rng, facts, people, "train", self.mix.attributes))
        return asked

    def _queries(self, asked: list[Question], together: int) -> tuple[Text, ...]:
        pairs = [(question.ask, question.answer) for question in asked]
        return tuple(self.tokens.exchange(pairs[i : i + together]) for i in range(0, len(pairs), together))

    def _turns(
        self, rng: random.Random, events: list[Event], people: tuple[Person, ...]
    ) -> list[tuple[Utterance, float]]:
        """The messages of a history, in some dialogues with a few questions among them, answered and trained on."""
        answered = rng.random() < self.mix.answered
        # Half of the questions come at the end, where there is most to keep apart.
        places = [rng.choice((rng.randint(0, len(events)), len(events))) for _ in range(rng.randint(2, 5) * answered)]
        turns: list[tuple[Utterance, float]] = []
        for place in range(len(events) + 1):
            for _ in range(places.count(place)):
                known = current_facts(events[:place])
                if known and rng.random() < 0.85:
                    asked = question(rng, rng.choice(known), people)
                else:
                    asked = unanswerable_question(rng, known, people, "train", self.mix.attributes)
                turns += [(Utterance("user", asked.ask), 0.0), (Utterance("assistant", asked.answer), 1.0)]
            if place < len(events):
                for message in events[place].messages:
                    trained = answered and message.role == "assistant"
                    turns.append((message, 0.1 if trained else 0.0))
        return turns
