"""The demo's measurements: recall with the text gone, corrections, forgetting, and what it costs the backbone."""

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from types import MappingProxyType
from typing import TypeVar

import torch

from deltamem.demo.reader import ASSISTANT, Asked, Reader
from deltamem.demo.results import Cost, Curve, Rate, Results, Updates
from deltamem.demo.world import USER, Dialogue, Utterance, chat, sample_dialogue
from deltamem.session.retrieval import best_matches
from deltamem.state import MemoryState

TURNS = 3
ADAPTERS = ("token", "segment", "multi")
LABELS = {
    "none": "no context",
    "token": "memory, token writes",
    "segment": "memory, segment writes",
    "multi": "memory, four states",
    "shuffled": "another dialogue's memory",
    "bm25": f"BM25, best {TURNS} turns",
    "full": "full context",
}
METHODS = tuple(LABELS)
FORGETTING_TOKENS = (0, 200, 400, 600, 1000, 2000)
_UPDATE_FACTS, _UPDATE_CORRECTIONS, _FORGETTING_FACTS, _LOSS_FACTS = 4, 2, 4, 8

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """How many held-out dialogues each measurement takes.

    Attributes:
        recall: by number of facts; about as many questions come of each.
        updates: dialogues in which two of four facts are corrected.
        forgetting: dialogues of four facts that go on with small talk.
        loss: dialogues of eight facts for the next-token loss.
    """

    recall: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({1: 80, 2: 50, 4: 40, 8: 20, 16: 10}))
    updates: int = 40
    forgetting: int = 16
    loss: int = 16

    @property
    def steps(self) -> int:
        """How often :func:`measure` tells its progress."""
        return len(self.recall) + 3


def relevant_turns(
    messages: Sequence[Utterance], questions: Sequence[str], turns: int = TURNS
) -> list[list[Utterance]]:
    """For each question the ``turns`` exchanges that BM25 ranks highest, in their original order.

    Raises:
        ImportError: bm25s is not installed; the message names the extra.
    """
    exchanges = [messages[i : i + 2] for i in range(0, len(messages), 2)]
    ranked = best_matches([" ".join(m.text for m in exchange) for exchange in exchanges], questions, turns)
    return [[message for place, _ in row for message in exchanges[place]] for row in ranked]


class Exam:
    """Held-out dialogues, written to memory once by every adapter, and questions about them by every method."""

    def __init__(self, reader: Reader, dialogues: Sequence[Dialogue]) -> None:
        self.reader = reader
        self.histories = [dialogue.messages for dialogue in dialogues]
        self.states = {name: reader.remember(name, self.histories) for name in ADAPTERS}

    def grade(self, asked: Sequence[Asked]) -> dict[str, list[bool]]:
        """Which answers are right, by method."""
        reader, rows = self.reader, len(self.histories)
        others = self.states["multi"].select([(row + 1) % rows for row in range(rows)])
        return {
            "none": reader.recall(None, None, asked),
            **{name: reader.recall(name, state, asked) for name, state in self.states.items()},
            "shuffled": reader.recall("multi", others, asked),
            "bm25": self._retrieved(asked),
            "full": reader.read(None, self.histories, asked),
        }

    def _retrieved(self, asked: Sequence[Asked]) -> list[bool]:
        prompts: list[list[Utterance]] = [[]] * len(asked)
        for row, history in enumerate(self.histories):
            places = [place for place, question in enumerate(asked) if question.row == row]
            if places:
                found = relevant_turns(history, [asked[place].ask for place in places])
                for place, turns in zip(places, found, strict=True):
                    prompts[place] = turns
        return self.reader.read(None, prompts, [replace(question, row=p) for p, question in enumerate(asked)])


def measure(readers: Sequence[Reader], progress: Callable[[str], None], sizes: Sizes | None = None) -> Results:
    """Runs every measurement, as many at a time as there are readers.

    A reader is one thread with a model of its own: what the threads of one product would spend on waiting for one
    another, on a model this small, is more than they save.

    Args:
        readers: equal readers; the results do not depend on their number.
        progress: is told what has just been measured, :attr:`Sizes.steps` times.
        sizes: how many dialogues to take.
    """
    sizes = sizes or Sizes()
    free: SimpleQueue[Reader] = SimpleQueue()
    for reader in readers:
        free.put(reader)

    def run(label: str, job: Callable[..., T], *arguments: int) -> T:
        reader = free.get()
        try:
            return job(reader, *arguments)
        finally:
            free.put(reader)
            progress(label)

    pool = ThreadPoolExecutor(len(readers), initializer=torch.set_num_threads, initargs=(1,))
    try:
        forgetting = pool.submit(run, "forgetting", measure_forgetting, sizes.forgetting)
        recall = {
            facts: pool.submit(run, f"recall, {facts} fact{'s' * (facts > 1)}", measure_recall, facts, count)
            for facts, count in sorted(sizes.recall.items(), reverse=True)
        }
        updates = pool.submit(run, "corrected facts", measure_updates, sizes.updates)
        loss = pool.submit(run, "next-token loss", measure_loss, sizes.loss)
        graded = {facts: recall[facts].result() for facts in sizes.recall}
        in_context = {
            "bare": Rate.together([rates["full"] for rates, _ in graded.values()]),
            "adapted": Rate.together([adapted for _, adapted in graded.values()]),
        }
        return Results(
            recall={m: {facts: rates[m] for facts, (rates, _) in graded.items()} for m in METHODS},
            updates=updates.result(),
            forgetting=forgetting.result(),
            cost=Cost(in_context, loss.result()),
            bytes_per_session={name: readers[0].bytes_per_session(name) for name in ADAPTERS},
        )
    finally:
        pool.shutdown(cancel_futures=True)


def measure_recall(reader: Reader, facts: int, count: int) -> tuple[dict[str, Rate], Rate]:
    """Asks for every fact of ``count`` dialogues: by method, and with an adapter on while the text is in the window."""
    dialogues = _held_out(count, facts)
    exam, asked = Exam(reader, dialogues), all_asked(dialogues)
    rows = [question.row for question in asked]
    rates = {method: Rate.of(right, rows) for method, right in exam.grade(asked).items()}
    return rates, Rate.of(reader.read("multi", exam.histories, asked), rows)


def measure_updates(reader: Reader, count: int) -> Updates:
    """Asks about the corrected facts of ``count`` dialogues, and looks for the new value and for the old one."""
    dialogues = _held_out(count, _UPDATE_FACTS, _UPDATE_CORRECTIONS)
    corrected = [
        (row, question.ask, question.fact)
        for row, dialogue in enumerate(dialogues)
        for question in dialogue.questions
        if question.fact and question.fact.replaces
    ]
    new = [Asked(row, ask, f"{fact.value}.") for row, ask, fact in corrected]
    old = [Asked(row, ask, f"{fact.replaces}.") for row, ask, fact in corrected]
    right = Exam(reader, dialogues).grade([*new, *old])
    rows = [question.row for question in new]
    return Updates(
        new={method: Rate.of(graded[: len(new)], rows) for method, graded in right.items()},
        old={method: Rate.of(graded[len(new) :], rows) for method, graded in right.items()},
    )


def measure_forgetting(reader: Reader, count: int) -> dict[str, Curve]:
    """Tells a few facts, then nothing but small talk, and asks again from time to time.

    The memory carries on from where it was; of all the text so far, the last tokens are in the window.
    """
    dialogues = _held_out(count, _FORGETTING_FACTS)
    asked = all_asked(dialogues)
    rows = [question.row for question in asked]
    rng = random.Random("forgetting")
    texts: list[list[Utterance]] = [[] for _ in dialogues]
    news = [list(dialogue.messages) for dialogue in dialogues]
    since = [0] * count
    states: dict[str, MemoryState | None] = dict.fromkeys(ADAPTERS)
    curves: dict[str, Curve] = {name: [] for name in (*ADAPTERS, "full")}
    for mark in FORGETTING_TOKENS:
        for row in range(count):
            while since[row] < mark:
                talk = chat(rng, 1)
                since[row] += reader.length(talk)
                news[row] += talk
        tokens = round(sum(since) / count)
        for name in ADAPTERS:
            states[name] = state = reader.remember(name, news, states[name])
            curves[name].append((tokens, Rate.of(reader.recall(name, state, asked), rows)))
        texts = [text + new for text, new in zip(texts, news, strict=True)]
        curves["full"].append((tokens, Rate.of(reader.read(None, texts, asked), rows)))
        news = [[] for _ in dialogues]
    return curves


def measure_loss(reader: Reader, count: int) -> dict[str, float]:
    """The loss of the assistant's tokens in ``count`` dialogues with their questions and answers, in nats."""
    histories = []
    for dialogue in _held_out(count, _LOSS_FACTS):
        exchanges = [(Utterance(USER, q.ask), Utterance(ASSISTANT, q.answer)) for q in dialogue.questions]
        histories.append([*dialogue.messages, *(message for exchange in exchanges for message in exchange)])
    return {"bare": reader.loss(None, histories), "adapted": reader.loss("multi", histories)}


def _held_out(count: int, facts: int, corrections: int = 0) -> list[Dialogue]:
    rng = random.Random(f"held out/{facts}/{corrections}")
    return [sample_dialogue(rng, facts=facts, corrections=corrections, split="test") for _ in range(count)]


def all_asked(dialogues: Sequence[Dialogue]) -> list[Asked]:
    """The questions of dialogues, a row each."""
    return [Asked(row, q.ask, q.answer) for row, dialogue in enumerate(dialogues) for q in dialogue.questions]
