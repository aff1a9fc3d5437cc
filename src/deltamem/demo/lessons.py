"""Training dialogues for the embedded backbone: the world's events with questions among them, as weighted tokens.

Each lesson asks several questions: with one question a dialogue, recall does not form in any reasonable time.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from deltamem.demo.tokenizer import END, START
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
from deltamem.state import NO_SEGMENT
from deltamem.train.episodes import Text, TextBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WINDOW = 512
_UNANSWERABLE_SHARE = 0.17
_ANSWER_WEIGHT, _REPLY_WEIGHT, _USER_WEIGHT = 1.0, 0.2, 0.1


class Turn(NamedTuple):
    """A message and the weight of its tokens in the loss."""

    message: Utterance
    weight: float


def sample_lesson(rng: random.Random, max_facts: int, *, plain: bool = False) -> list[Turn]:
    """A training dialogue of at most ``max_facts`` facts with questions between and after them.

    A ``plain`` lesson has neither corrections nor small talk nor unanswerable questions: nothing but recall.
    """
    if plain:
        facts = rng.randint(1, max_facts)
        events, people = sample_events(rng, facts=facts)
        return _with_questions(rng, events, people, [rng.randint(1, facts) for _ in range(2 * facts + 1)], 0.0)
    facts = rng.randint(1, max_facts) if rng.random() > 0.06 else 0
    corrections = sum(rng.random() < 0.2 for _ in range(facts))
    events, people = sample_events(rng, facts=facts, corrections=corrections, small_talk=rng.choice((0, 0, 1, 2, 3)))
    if rng.random() < 0.1:
        events = events[rng.randint(0, len(events)) :]
    asked = rng.randint(2, 4) + facts // 2
    first = 0 if rng.random() < 0.15 else min(1, len(events))
    places = [rng.randint(first, len(events)) for _ in range(asked)]
    if rng.random() < 0.5:
        places = [len(events)] * asked
    return _with_questions(rng, events, people, places, _UNANSWERABLE_SHARE)


def _with_questions(
    rng: random.Random, events: list[Event], people: tuple[Person, ...], places: list[int], unanswerable: float
) -> list[Turn]:
    """The turns of ``events``, with a question after as many of them as each of ``places`` says."""
    turns: list[Turn] = []
    for place, event in enumerate([*events, Event(())]):
        for _ in range(places.count(place)):
            asked = _next_question(rng, events[:place], people, unanswerable)
            turns.append(Turn(Utterance("user", asked.ask), _USER_WEIGHT))
            turns.append(Turn(Utterance("assistant", asked.answer), _ANSWER_WEIGHT))
        turns += [Turn(told, _USER_WEIGHT if told.role == "user" else _REPLY_WEIGHT) for told in event.messages]
    return turns


def _next_question(rng: random.Random, told: list[Event], people: tuple[Person, ...], unanswerable: float) -> Question:
    facts = current_facts(told)
    if not facts or rng.random() < unanswerable:
        return unanswerable_question(rng, facts, people, "train")
    return question(rng, rng.choice(facts), people)


class DialogueTokens:
    """Turns chats into token ids, as the chat template gives them, with loss weights and a segment a message."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self._end = int(tokenizer.convert_tokens_to_ids(END))  # type: ignore[arg-type]
        self._newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
        self._heads = {
            role: tokenizer.encode(f"{START}{role}\n", add_special_tokens=False) for role in ("user", "assistant")
        }
        self._encode = lru_cache(maxsize=50_000)(lambda text: tokenizer.encode(text, add_special_tokens=False))

    def text(self, turns: Sequence[tuple[Utterance, float]]) -> Text:
        """A chat in which each message's words, and its end, have a loss weight; every message is a segment."""
        ids: list[int] = []
        weights: list[float] = []
        segments: list[int] = []
        for number, (message, weight) in enumerate(turns):
            head = self._heads[message.role]
            body = [*self._encode(message.text), self._end]
            ids += [*head, *body, self._newline]
            weights += [*[0.0] * len(head), *[weight] * len(body), 0.0]
            segments += [number] * (len(head) + len(body) + 1)
        return Text(tuple(ids), tuple(weights), tuple(segments))

    def passages(self, turns: Sequence[tuple[Utterance, float]]) -> tuple[Text, ...]:
        """A chat as one text or, beyond the backbone's window, as several that break between messages.

        Raises:
            ValueError: one message is longer than the window.
        """
        whole = self.text(turns)
        if len(whole.ids) <= WINDOW:
            return (whole,) if turns else ()
        if len(turns) == 1:
            raise ValueError(f"A message of {len(whole.ids)} tokens is longer than the window of {WINDOW}; cut it.")
        half = len(turns) // 2
        return (*self.passages(turns[:half]), *self.passages(turns[half:]))

    def exchange(self, asked: list[tuple[str, str]]) -> Text:
        """Questions, each followed by its answer, which is what counts.

        What generation would have to produce, or is given as its prompt, belongs to no segment.
        """
        turns: list[Turn] = []
        for ask, answer in asked:
            turns += [Turn(Utterance("user", ask), 0.0), Turn(Utterance("assistant", answer), 1.0)]
        said = self.text(turns)[:-1]
        return replace(said, segments=tuple(NO_SEGMENT if turn % 2 else turn // 2 for turn in said.segments))

    def pad(self, texts: Sequence[Text]) -> TextBatch:
        """A batch of texts."""
        return TextBatch.pad(texts, self.pad_id)


class LessonTokens(DialogueTokens):
    """Turns lessons into token ids and loss weights."""

    def encode(self, turns: Sequence[Turn]) -> Text:
        """The chat as the template gives it, with the loss weight of each token; cut to the window."""
        return self.text(turns)[:WINDOW]

    def batches(
        self, rng: random.Random, *, max_facts: int, plain: bool, tokens: int, pool: int = 8
    ) -> Iterator[TextBatch]:
        """About ``pool`` batches of at most ``tokens`` tokens each, of lessons of like length, in random order."""
        lessons: list[Text] = []
        while sum(len(lesson.ids) for lesson in lessons) < pool * tokens:
            lessons.append(self.encode(sample_lesson(rng, max_facts, plain=plain)))
        lessons.sort(key=lambda lesson: len(lesson.ids))
        groups: list[list[Text]] = [[]]
        for lesson in lessons:
            if len(lesson.ids) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(lesson)
        rng.shuffle(groups)
        for group in groups:
            yield self.pad(group)
