"""GPQA-Diamond (Rein et al., 2023) as the release asks it: a question, four choices, an answer in JSON.

The data is gated and its authors ask that no item be published, so it is read from a file or from the Hub with the
user's own access. The harness's own variants of GPQA are run by :mod:`deltamem_lab.harness`.
"""

import csv
import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deltamem.chat import Message
from deltamem_lab.interface import Average, Budget, Entry, Item, PublishedSize, Question
from deltamem_lab.tasks.data import BadDataError, FromFile, digest, hub_file, hub_revision
from deltamem_lab.tasks.registry import task

HUB = "Idavidrein/gpqa"
LETTERS = "ABCD"
_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_COLUMNS = ("Record ID", "Question", *_CHOICES)
_PROMPT = (
    "Answer the following multiple-choice question.\nPlease show your choice in the `answer` field with only the "
    'choice letter, for example: {{"answer": "C"}}.\n\nQuestion: {question}\n\n{options}'
)
# In this order: a JSON block, a JSON field, a box, "answer: C", "the correct answer is C".
_MARKED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r'```json\s*\{[^`]*?"answer"\s*:\s*"([A-D])"[^`]*\}\s*```',
        r'"answer"\s*:\s*"([A-D])"',
        r"\\boxed\{\s*(?:\\text\{)?\s*([A-D])\s*\}?\s*\}",
        r"answer\s*[:：]\s*\**\s*([A-D])\b",
        r"(?:final|correct) answer\s*(?:is)?\s*\**\s*([A-D])\b",
    )
)
# A letter alone, bold or bracketed too, or in front of a line: "C. because", "C) because", "C  because".
_LINE = re.compile(r"[*(\[]*([A-D])[*)\].:]*$|([A-D])(?:[.):]|\s{2})", re.IGNORECASE)


@task
class GPQA(FromFile):
    """GPQA's questions, one an item without a history, in the release's prompt; greedy, 8,192 tokens.

    Args:
        data: a CSV file with the columns of the Hub's; the Hub's ``gpqa_diamond.csv`` if not given.
        revision: of the Hub's data.

    Raises:
        BadDataError: the data cannot be read; the message names the row.
    """

    name = "gpqa"
    # Its prompts' length is a guess: the data is gated.
    size = PublishedSize(198, 198, 0, 250, 250, 8192)
    protocols = ("release",)
    main_metric = "accuracy"
    averages: tuple[Average, ...] = ("question",)

    def __init__(self, data: Path | None = None, *, revision: str | None = None) -> None:
        path = data or hub_file(HUB, "gpqa_diamond.csv", revision)
        self.revision = digest(path) if data else hub_revision(HUB, path, revision)
        self._items = list(_items(path))
        if not self._items:
            raise BadDataError(f"{path} has no rows.")

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """A single message; nothing of a history is shown, there is none."""
        options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=True))
        return [{"role": "user", "content": _PROMPT.format(question=question.text, options=options)}]

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """Whether the letter that the answer settles on is the right one's."""
        return {"accuracy": float(chosen_letter(output) == question.answers[0])}


def _items(path: Path) -> Iterator[Item]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(f"{path}: cannot be read ({error}).") from None
    for number, row in enumerate(rows, start=1):
        if missing := [column for column in _COLUMNS if not row.get(column)]:
            raise BadDataError(f"{path}, row {number} is not a question of GPQA: it has no {', '.join(missing)}.")
        name = row["Record ID"]
        order = choice_order(name)
        question = Question(
            id=name,
            text=row["Question"].strip(),
            answers=(LETTERS[order.index(0)],),
            options=tuple(row[_CHOICES[place]].strip() for place in order),
            category=row.get("High-level domain") or "",
        )
        yield Item(name, (), (question,))


def choice_order(record: str, seed: int = 42) -> list[int]:
    """The order of a question's choices, of which 0 is the right one; the release's rule."""
    order = [0, 1, 2, 3]
    digits = hashlib.md5(f"{record}:{seed}".encode(), usedforsecurity=False).hexdigest()[:8]
    random.Random(int(digits, 16)).shuffle(order)
    return order


def chosen_letter(output: str) -> str | None:
    """The letter A to D that an answer settles on, or None.

    The last match of the first pattern that is found at all: a JSON block, an ``"answer"`` field, a box, "answer:",
    "the correct answer is"; else the first and then the last line if it is a letter or begins with one. These are the
    release's rules to the letter, odd ones too: "The correct answer is (C)." has none.
    """
    for pattern in _MARKED:
        if found := pattern.findall(output):
            return str(found[-1]).upper()
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in (*lines[:1], *lines[-1:]):
        if match := _LINE.match(line):
            return (match[1] or match[2]).upper()
    return None
