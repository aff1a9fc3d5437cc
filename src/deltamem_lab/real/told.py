"""Told facts: held-out dialogues, and how many of their questions each method answers.

An answer is right when the told value stands in it, word by word, whatever else it says. Intervals are 95 %, by a
bootstrap over dialogues.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
from torch import Tensor

from deltamem.chat import Message
from deltamem.extensions import load_object
from deltamem.session.retrieval import best_matches
from deltamem.state import MemoryState
from deltamem.train.data.told.batches import ToldBatches
from deltamem.train.data.told.chats import Chats
from deltamem.train.data.told.dialogues import UNKNOWN, Dialogue, Mix, Split, everyday_words, sample_dialogue
from deltamem.train.recipe import Factory
from deltamem.train.recipefile import RecipeError, load_recipe
from deltamem_lab.real.chat import STATIC, Chat
from deltamem_lab.statistics import Interval, rate_interval

Rates = dict[str, Any]
CELLS: tuple[tuple[Split, int], ...] = (
    ("known", 1), ("known", 4), ("known", 8),
    ("values", 1), ("values", 4), ("values", 8),
    ("relations", 1), ("relations", 4),
)  # fmt: skip
_TURNS = 3
_CHAT_TOKENS = 4000
_FORGETTING = (0, 250, 1000, 4000, 10_000)
_TEXT_BYTES = (512, 1024, 2048, 4096, 8192)
_ZSTD = pyarrow.Codec("zstd", compression_level=19)


def _steps(largest: int) -> Callable[[Tensor], Tensor]:
    """Rounds each matrix of a state to whole steps of one size, of which the largest number has so many."""

    def rounded(matrices: Tensor) -> Tensor:
        step = matrices.abs().amax((-1, -2), keepdim=True).clamp(min=1e-12) / largest
        return (matrices / step).round() * step

    return rounded


# What a state is kept as: bytes a number, and what that leaves of it. Scales, one a matrix, are not counted.
FORMATS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "float32": (4, lambda matrices: matrices),
    "bfloat16": (2, lambda matrices: matrices.bfloat16().float()),
    "int8": (1, _steps(127)),
    "int4": (0.5, _steps(7)),
}


@dataclass(frozen=True)
class Asked:
    """A question of a dialogue: what is asked, what is right, and which dialogue it belongs to."""

    number: int
    ask: str
    value: str
    replaces: str


class Told:
    """Dialogues and the answers of each method to their questions."""

    def __init__(self, chat: Chat, dialogues: Sequence[Dialogue]) -> None:
        self.chat, self.dialogues = chat, dialogues
        self.asked = [
            Asked(number, question.ask, question.value, question.fact.replaces)
            for number, dialogue in enumerate(dialogues)
            for question in dialogue.questions
        ]
        self.prompts: list[list[Message]] = [[{"role": "user", "content": asked.ask}] for asked in self.asked]
        self.rows = [asked.number for asked in self.asked]
        self.strange = [(row + 1) % len(dialogues) for row in self.rows]

    def write(self) -> MemoryState:
        """The active adapter's memory of each dialogue."""
        return self.chat.write([dialogue.messages for dialogue in self.dialogues])

    def recalled(self, states: MemoryState) -> list[str]:
        """The answers from a memory of each dialogue."""
        return self.chat.answer(self.prompts, states.select(self.rows))

    def answers(self, *, text: bool = True) -> dict[str, list[str]]:
        """The answers by method; ``text`` for those that show it too."""
        found = {"none": self.chat.answer(self.prompts, None)}
        if text:
            found["full"] = self.with_text([dialogue.messages for dialogue in self.dialogues])
            found["bm25"] = self.with_text([dialogue.messages for dialogue in self.dialogues], turns=_TURNS)
        for name in self.chat.methods:
            self.chat.use(name)
            states = self.write()
            found[name] = (
                self.chat.answer(self.prompts, states.select(self.strange)) if name == STATIC else self.recalled(states)
            )
            if name == self.chat.memories[0]:
                found["stranger"] = self.chat.answer(self.prompts, states.select(self.strange))
                found["empty"] = self.chat.answer(self.prompts, self.chat.empty(len(self.asked)))
        return found

    def with_text(
        self, histories: Sequence[Sequence[Message]], *, turns: int = 0, state: MemoryState | None = None
    ) -> list[str]:
        """The answers with a history of each dialogue in the window: the end that fits, or the best turns of it."""
        prompts: list[list[Message]] = []
        for asked, prompt in zip(self.asked, self.prompts, strict=True):
            history = histories[asked.number]
            if not turns:
                prompts.append([*self.chat.end(history), *prompt])
                continue
            said = [message["content"] for message in history if message["role"] == "user"]
            (best,) = best_matches(said, [asked.ask], turns) if said else ((),)
            shown = "\n".join(["What I told you before:", *(said[place] for place, _ in best), "", asked.ask])
            prompts.append([{"role": "user", "content": shown}])
        return self.chat.answer(prompts, state)

    def rates(self, answers: Mapping[str, Sequence[str]], value: Callable[[Asked], str]) -> Rates:
        """The share of answers that hold a value, by method."""
        clusters = [str(row) for row in self.rows]
        return {
            method: rate(
                [float(holds(text, value(asked))) for text, asked in zip(texts, self.asked, strict=True)], clusters
            )
            for method, texts in answers.items()
        }

    def recall(self, answers: Mapping[str, Sequence[str]]) -> Rates:
        """The share of answers that hold what was told."""
        return self.rates(answers, lambda asked: asked.value)


def sampled(
    split: Split, facts: int, count: int, *, trained: frozenset[str] = frozenset(), **mix: Any
) -> list[Dialogue]:
    """Held-out dialogues; the same ones each time.

    Args:
        split: what is held out.
        facts: in each dialogue.
        count: how many.
        trained: words of the training: where values are held out, a dialogue with one of them in a value is left out.
        mix: further fields of :class:`Mix`.
    """
    rng = random.Random(f"real model {split}/{facts}/{sorted(mix.items())}")
    found: list[Dialogue] = []
    while len(found) < count:
        dialogue = sample_dialogue(rng, Mix(facts=(facts, facts), strict=True, **mix), split)
        if split != "values" or not any(trained & _own_words(question.value) for question in dialogue.questions):
            found.append(dialogue)
    return found


def trained_words(tokenizer: Any, recipe: Path, updates: int | None = None) -> frozenset[str]:
    """All words that a training on told facts tells, asks and answers; its dialogues are drawn again.

    Args:
        tokenizer: of the backbone.
        recipe: of the training.
        updates: how many were made; all of the recipe's by default.

    Raises:
        RecipeError: it is no recipe, or its data is not of told facts.
    """
    data = load_recipe(recipe).data
    batches = load_object(data.source)(tokenizer, **data.options) if isinstance(data, Factory) else None
    if not isinstance(batches, ToldBatches):
        raise RecipeError(f"{recipe}: its data is not of told facts.")
    words: set[str] = set()
    for update in range(batches.updates if updates is None else updates):
        for dialogue in batches.dialogues(update):
            said = [message["content"] for message in dialogue.messages]
            said += [text for question in dialogue.questions for text in (question.ask, question.answer)]
            words.update(word for text in said for word in plain_words(text).split())
    return frozenset(words)


def _own_words(value: str) -> set[str]:
    """The words of a value that wordings and lists do not have, such as "street"."""
    return {word for word in plain_words(value).split() if word not in everyday_words()}


def measure_told(chat: Chat, dialogues: int, split: Split, facts: int) -> Rates:
    """Recall by method where so many facts were told."""
    told = Told(chat, sampled(split, facts, max(12, dialogues // facts), trained=chat.trained))
    return told.recall(told.answers())


def measure_corrected(chat: Chat, dialogues: int) -> Rates:
    """Two facts, each corrected: how often the new value comes, and how often the old one."""
    told = Told(chat, sampled("known", 2, max(12, dialogues // 2), corrected=1.0))
    answers = told.answers()
    new, old = told.recall(answers), told.rates(answers, lambda asked: asked.replaces)
    return {method: {"new": new[method], "old": old[method]} for method in answers}


def measure_absence(chat: Chat, dialogues: int) -> Rates:
    """Three facts told, three not: how often it says so where nothing was told, and where something was."""
    told = Told(chat, sampled("known", 3, max(12, dialogues // 3), unknown=1.0))
    found: Rates = {}
    for method, texts in told.answers(text=False).items():
        refused = [(asked, float(holds(text, UNKNOWN))) for text, asked in zip(texts, told.asked, strict=True)]
        sides = {"untold": [pair for pair in refused if not pair[0].value], "told": [p for p in refused if p[0].value]}
        found[method] = {
            side: rate([value for _, value in pairs], [str(asked.number) for asked, _ in pairs])
            for side, pairs in sides.items()
        }
    return found


def measure_formats(chat: Chat, dialogues: int) -> Rates:
    """What a state loses in fewer bits a number; four facts, values unseen."""
    told = Told(chat, sampled("values", 4, max(12, dialogues // 4), trained=chat.trained))
    chat.use(chat.memories[0])
    states = told.write()
    return {name: {"recall": found, "bytes": size} for name, size, found in _in_formats(told, states)}


def measure_chat(chat: Chat, dialogues: int, chats: Chats) -> Rates:
    """Four facts told in the course of 4,000 tokens of real chat, values unseen: recall by method."""
    told = Told(chat, in_chat(chat, dialogues, chats))
    return told.recall(told.answers())


def measure_bytes(chat: Chat, dialogues: int, chats: Chats | None) -> Rates:
    """Bytes of states and of texts; with chats, recall against bytes, beside what as much compressed text holds.

    Of the facts in 4,000 tokens of real chat. A state is kept in fewer and fewer bits a number. A text is the last
    messages that zstd packs into so many bytes, shown whole (``text``), or the three best turns of it (``bm25``).
    """
    found: Rates = {"state": {}, "text": {}, "zstd": {}}
    for name in chat.memories:
        chat.use(name)
        found["state"][name] = chat.empty().nbytes
    for facts in (1, 4, 8):
        for kind, size in _mean_bytes(sampled("known", facts, 50)).items():
            found[kind][str(facts)] = size
    if chats is None:
        return found
    told = Told(chat, in_chat(chat, dialogues, chats))
    found["chat"] = _mean_bytes(told.dialogues)
    curve: dict[str, list[Rates]] = {}
    for name in chat.memories:
        chat.use(name)
        points = _in_formats(told, told.write())
        curve[name] = [{"format": form, "bytes": size, "recall": recall} for form, size, recall in points]
    for most in _TEXT_BYTES:
        kept = [last_within(dialogue.messages, most) for dialogue in told.dialogues]
        for method, turns in (("text", 0), ("bm25", _TURNS)):
            recall = told.recall({method: told.with_text(kept, turns=turns)})[method]
            curve.setdefault(method, []).append({"bytes": most, "recall": recall})
    return found | {"curve": curve}


def measure_forgetting(chat: Chat, dialogues: int, chats: Chats) -> Rates:
    """Four facts of unseen values, then real chat of other people: recall by adapter and tokens written since."""
    rng = random.Random("forgetting")
    told = Told(chat, sampled("values", 4, max(12, dialogues // 8), trained=chat.trained, answered=1.0, talk=0.0))
    parts: list[list[Message]] = []
    for more in (after - before for before, after in pairwise(_FORGETTING)):
        parts.append([message for exchange in chats.draw(rng, more) for message in exchange.messages])
    found: Rates = {}
    for name in chat.memories:
        chat.use(name)
        state, written = told.write(), 0
        recall = {"0": told.recall({name: told.recalled(state)})[name]}
        for part in parts:
            state, tokens = chat.write_more(state, part)
            written += tokens
            recall[str(written)] = told.recall({name: told.recalled(state)})[name]
        found[name] = recall
    return found


def measure_gallery(chat: Chat) -> list[Rates]:
    """Single questions with what was told and each method's answer: the first dialogues, neither good nor bad ones."""
    shown: list[Rates] = []
    cells: tuple[tuple[Split, int], ...] = (("known", 1), ("values", 1), ("known", 4), ("relations", 1))
    for split, facts in cells:
        told = Told(chat, sampled(split, facts, 12)[: 4 if facts == 1 else 1])
        answers = told.answers()
        for place, asked in enumerate(told.asked):
            shown.append(
                {
                    "split": split,
                    "told": [message["content"] for message in told.dialogues[asked.number].messages],
                    "ask": asked.ask,
                    "value": asked.value,
                    "answers": {method: texts[place].strip() for method, texts in answers.items()},
                    "right": [method for method, texts in answers.items() if holds(texts[place], asked.value)],
                }
            )
    return shown


def measure_window_harm(chat: Chat, dialogues: int, crowded: MemoryState) -> Rates:
    """One fact with its text in the window: recall of the bare model, with an empty memory, and with a full one.

    The main adapter is active; ``crowded`` is one row, the memory of unrelated text.
    """
    told = Told(chat, sampled("known", 1, max(12, dialogues)))
    histories = [dialogue.messages for dialogue in told.dialogues]
    rows = len(told.asked)
    states = {"bare": None, "empty": chat.empty(rows), "after 2,000 tokens": crowded.repeat_interleave(rows)}
    return told.recall({form: told.with_text(histories, state=state) for form, state in states.items()})


def plain_words(text: str) -> str:
    """Lower case, without accents and punctuation, single blanks, so that "7:30" and "7:30." are the same words."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return f" {' '.join(re.findall(r'[a-z0-9]+', letters))} "


def holds(answer: str, value: str) -> bool:
    """Whether the value stands in the answer, word by word."""
    wanted = plain_words(value)
    return bool(wanted.strip()) and wanted in plain_words(answer)


def rate(values: Sequence[float], clusters: Sequence[str]) -> Rates:
    """A share with its interval and the number of questions."""
    return as_data(rate_interval(values, clusters), len(values))


def as_data(interval: Interval, questions: int) -> Rates:
    """An interval as it stands in the results."""
    return {**rounded(interval), "questions": questions}


def rounded(interval: Interval) -> dict[str, float]:
    """A value and its ends to four places."""
    return {name: round(number, 4) for name, number in asdict(interval).items()}


def packed(text: str) -> int:
    """How many bytes a text is, compressed by zstd at level 19."""
    return len(_ZSTD.compress(text.encode(), asbytes=True))


def last_within(messages: Sequence[Message], most: int) -> Sequence[Message]:
    """The last messages that are at most so many bytes, compressed together."""
    low, high = 0, len(messages)
    while low < high:
        middle = (low + high + 1) // 2
        fits = packed(_joined(messages[len(messages) - middle :])) <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    return messages[len(messages) - low :]


def _mean_bytes(dialogues: Sequence[Dialogue]) -> dict[str, int]:
    """The mean bytes of dialogues, plain and compressed."""
    texts = [_joined(dialogue.messages) for dialogue in dialogues]
    plain, compressed = sum(len(text.encode()) for text in texts), sum(map(packed, texts))
    return {"text": round(plain / len(texts)), "zstd": round(compressed / len(texts))}


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)


def in_chat(chat: Chat, dialogues: int, chats: Chats) -> list[Dialogue]:
    """Four facts told in the course of 4,000 tokens of real chat, values unseen: an eighth of so many dialogues."""
    rng = random.Random("told in chat")
    return [
        replace(one, messages=chats.around(rng, one.messages, _CHAT_TOKENS))
        for one in sampled("values", 4, max(12, dialogues // 8), trained=chat.trained)
    ]


def _in_formats(told: Told, states: MemoryState) -> Iterator[tuple[str, int, Rates]]:
    """Each number format, the bytes of one dialogue's state in it, and the recall from it."""
    numbers = sum(one[0].numel() for one in states.states)
    for name, (size, rounded) in FORMATS.items():
        kept = replace(states, states=tuple(map(rounded, states.states)))
        yield name, int(numbers * size), told.recall({name: told.recalled(kept)})[name]
