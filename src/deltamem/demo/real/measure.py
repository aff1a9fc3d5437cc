"""What the demo does with the real model: the scripted conversation, and recall on held-out dialogues."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem.attach import attached
from deltamem.chat import Message
from deltamem.demo.real.answers import answer, found_again, holds
from deltamem.demo.real.script import ASKED, LONGEST_REPLY, TOLD
from deltamem.demo.results import Rate
from deltamem.demo.story import Remains
from deltamem.session import Session
from deltamem.state import MemoryState
from deltamem.train.data.told.dialogues import Dialogue, Mix, Split, sample_dialogue

BARE, MEMORY, STRANGER, BM25, FULL = "bare", "memory", "stranger", "bm25", "full"
METHODS = (BARE, STRANGER, MEMORY, BM25, FULL)
_BATCH = 16

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Column:
    """Held-out dialogues of the table."""

    split: Split
    facts: int
    dialogues: int


COLUMNS = (Column("known", 1, 12), Column("known", 4, 3), Column("values", 1, 12), Column("values", 4, 3))


@dataclass(frozen=True)
class Conversation(Remains):
    """What came of the script: what is left of it, and more.

    Attributes:
        messages: what was said, by both.
        answers: of each question, by method: ``bare``, ``memory``, ``bm25``, ``full``.
    """

    messages: tuple[Message, ...]
    answers: tuple[dict[str, str], ...]

    def right(self, method: str) -> list[bool]:
        """Which questions a method answers with the right word."""
        return [holds(said[method], word) for said, (_, word) in zip(self.answers, ASKED, strict=True)]


def converse(model: Any, tokenizer: Any, file: Path, tell: Tell) -> Conversation:
    """Says the script to the model, saves the memory, drops the text, and asks.

    The model answers each message by itself, with what was said still visible. Its replies are not written: a small
    model errs in them, and would remember its errors. The questions are asked of the saved
    memory alone, and of the bare model without, with the best turns, and with all of the text.
    """
    session = Session(model, tokenizer, window=None, roles=("user",))
    for said in TOLD:
        tell("talking")
        session.reply(said, do_sample=False, max_new_tokens=LONGEST_REPLY)
    messages = list(session.visible)
    session.save(file)
    state = Session.load(file, model, tokenizer).state
    asked: list[list[Message]] = [[{"role": "user", "content": question}] for question, _ in ASKED]
    answers: dict[str, list[str]] = {}
    for method, prompts, memory in (
        (BARE, asked, None),
        (MEMORY, asked, state.select([0] * len(asked))),
        (BM25, [[*found_again(messages, one[0]["content"]), *one] for one in asked], None),
        (FULL, [[*messages, *one] for one in asked], None),
    ):
        tell("asking")
        answers[method] = answer(model, tokenizer, prompts, memory)
    by_question = tuple(dict(zip(answers, row, strict=True)) for row in zip(*answers.values(), strict=True))
    return Conversation.of(messages, state, file, messages=tuple(messages), answers=by_question)


CONVERSATION_STEPS = len(TOLD) + 4


def recall(model: Any, tokenizer: Any, column: Column, tell: Tell) -> dict[str, Rate]:
    """By method, how many questions about held-out dialogues are answered with the right word."""
    rng = random.Random(f"demo {column.split}/{column.facts}")
    mix = Mix(facts=(column.facts, column.facts))
    dialogues = [sample_dialogue(rng, mix, column.split) for _ in range(column.dialogues)]
    memory = MemoryState.stack([_remember(model, tokenizer, dialogue) for dialogue in dialogues])
    rates = {}
    for method in METHODS:
        right: list[bool] = []
        about: list[int] = []
        for batch in _batches(dialogues):
            tell(f"{column.facts} told, {method}")
            rows = [(row + (method == STRANGER)) % len(dialogues) for row, _ in batch]  # a stranger's is the next one
            state = memory.select(rows) if method in (MEMORY, STRANGER) else None
            prompts = [_prompt(method, dialogues[row], question) for row, question in batch]
            answers = answer(model, tokenizer, prompts, state)
            values = [dialogues[row].questions[question].value for row, question in batch]
            about += [row for row, _ in batch]
            right += [holds(said, value) for said, value in zip(answers, values, strict=True)]
        rates[method] = Rate.of(right, about)
    return rates


def recall_steps(column: Column) -> int:
    """How often :func:`recall` tells how far it is."""
    return len(METHODS) * -(-column.facts * column.dialogues // _BATCH)


def _remember(model: Any, tokenizer: Any, dialogue: Dialogue) -> MemoryState:
    session = Session(model, tokenizer, attached(model).new_state(1), window=0)
    session.observe(list(dialogue.messages))
    return session.state


def _batches(dialogues: list[Dialogue]) -> Iterator[list[tuple[int, int]]]:
    """Every question as the number of its dialogue and its own, so many at a time."""
    pairs = [(row, question) for row, one in enumerate(dialogues) for question in range(len(one.questions))]
    for start in range(0, len(pairs), _BATCH):
        yield pairs[start : start + _BATCH]


def _prompt(method: str, dialogue: Dialogue, question: int) -> list[Message]:
    ask = dialogue.questions[question].ask
    asked: list[Message] = [{"role": "user", "content": ask}]
    if method == FULL:
        return [*dialogue.messages, *asked]
    return [*found_again(dialogue.messages, ask), *asked] if method == BM25 else asked
