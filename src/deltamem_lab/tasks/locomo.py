"""LoCoMo (Maharana et al., 2024): ten conversations over months, and 1,986 questions about them in five categories.

The data may not be used commercially (CC BY-NC 4.0), so it is not part of this package. Without a file it is
downloaded from its authors' repository and compared with a known checksum.
"""

import hashlib
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem.files import write_atomically
from deltamem_lab.interface import Average, Budget, Decoding, Document, Entry, Item, PublishedSize, Question, as_text
from deltamem_lab.metrics.locomo import (
    ADVERSARIAL,
    CATEGORIES,
    NO_INFORMATION,
    TEMPORAL,
    locomo_score,
    official_answer,
)
from deltamem_lab.tasks.registry import task
from deltamem_lab.tasks.rows import BadDataError, digest, need, read_rows

URL = "https://raw.githubusercontent.com/snap-research/locomo/{}/data/locomo10.json"
SHA256 = "79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4"
_SYSTEM = (
    "You are a helpful, respectful and honest assistant whose job is to understand the following conversation and "
    "answer questions based on the conversation. If you don't know the answer to a question, please don't share "
    "false information."
)
# The authors' spelling.
_INTRODUCTION = (
    "Below is a conversation between two people: {} and {}. The conversation takes place over multiple days and the "
    "date of each conversation is wriiten at the beginning of the conversation.\n\n"
)
_ASK = (
    "Based on the above conversations, write a short answer for the following question in a few words. Do not write "
    "complete and lengthy sentences. Answer with exact words from the conversations whenever possible.\n\n"
    "Question: {}"
)
_DATE_HINT = " Use DATE of CONVERSATION to answer with an approximate date."
_CHOICE = " (a) {} (b) {}. Select the correct answer by writing (a) or (b)."
_ANSWER_TOKENS = 50


@task
class LoCoMo:
    """LoCoMo's questions, answered after reading a conversation of two people.

    A history is the conversation's turns, each a document dated as its session is. The protocols: ``release`` shows
    sessions newest first, turns in order within, and leaves out the last sessions if there is no room; ``official``,
    the authors' own for open models, shows them in order and leaves out the first turns; ``no_context`` shows none.
    All sample as the authors do.

    Args:
        data: ``locomo10.json`` or a file like it; downloaded if not given.
        revision: of the authors' repository, from which the data is downloaded.
        categories: which categories to ask. The paper leaves out 5, the adversarial one.
        audit: a file of rows with ``sample_id`` and ``question``, the questions whose gold answer is known to be
            wrong. The others then form the subset ``audited``.

    Raises:
        BadDataError: a file is not as it should be; the message names the row.
        ValueError: there is no such category.
    """

    name = "locomo"
    # Counted on the whole file.
    size = PublishedSize(10, 1540, 26_300, 23_000, 135, 50)
    protocols = ("release", "official", "no_context")
    main_metric = "f1"
    averages: tuple[Average, ...] = ("question", "category")

    def __init__(
        self,
        data: Path | None = None,
        *,
        revision: str | None = None,
        categories: Collection[int] = (1, 2, 3, 4),
        audit: Path | None = None,
    ) -> None:
        if unknown := set(categories) - set(CATEGORIES):
            raise ValueError(f"LoCoMo's categories are 1 to 5, not {sorted(unknown)}.")
        path = data or _downloaded(revision or "main")
        self.revision = digest(path)
        self.settings = {} if audit is None else {"audit": digest(audit)}
        self._categories = frozenset(categories)
        self._wrong = None if audit is None else _wrong_keys(audit)
        self._items: list[Item] = []
        for place, row in read_rows(path):
            try:
                self._items.append(self._item(row))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadDataError(f"{place} is not a conversation of LoCoMo: {error}.") from error

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """The conversations; those without a question of the categories are left out."""
        yield from [item for item in self._items if item.questions][:limit]

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The authors' messages: a system prompt, the conversation, the question."""
        asked = _ASK.format(_asked(question))
        if protocol == "no_context" or not history:
            return _messages(asked)
        start, released = _INTRODUCTION.format(*item.extra["speakers"]), protocol == "release"

        def render(shown: Sequence[Entry]) -> list[Message]:
            return _messages(f"{start}{_sessions(shown, newest_first=released)}\n\n{asked}" if shown else asked)

        if not released:
            last = budget.most(len(history), lambda number: render(history[len(history) - number :]))
            return render(history[len(history) - last :])
        # Whole sessions give way, the newest first; of a single one its last turns.
        ends = [*accumulate(len(list(turns)) for _, turns in groupby(history, key=_date))]
        sessions = budget.most(len(ends), lambda number: render(history[: ends[number - 1] if number else 0]))
        turns = ends[sessions - 1] if sessions else budget.most(ends[0], lambda number: render(history[:number]))
        return render(history[:turns])

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Sampling at temperature 0.4 from the ten likeliest; the seed is 42 plus the question's place in its file."""
        return Decoding(_ANSWER_TOKENS, temperature=0.4, top_p=0.9, top_k=10, seed=42 + question.extra["index"])

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """F1 by the rules of the question's category."""
        options = question.options if protocol == "official" else ()
        answer = official_answer(output, options)
        return {"f1": locomo_score(answer, question.answers[0], question.extra["category"])}

    def _item(self, row: dict[str, Any]) -> Item:
        name, conversation = need(row, "sample_id", str), need(row, "conversation", dict)
        first = sum(len(item.extra["categories"]) for item in self._items)
        rows = need(row, "qa", list)
        questions = [self._question(name, number, first + number, one) for number, one in enumerate(rows)]
        return Item(
            id=name,
            history=tuple(_turns(conversation)),
            questions=tuple(question for question in questions if question.extra["category"] in self._categories),
            extra={
                "speakers": [need(conversation, who, str) for who in ("speaker_a", "speaker_b")],
                "categories": [question.extra["category"] for question in questions],
            },
        )

    def _question(self, item: str, number: int, index: int, row: dict[str, Any]) -> Question:
        category, text = need(row, "category", int), need(row, "question", str)
        if category not in CATEGORIES:
            raise ValueError(f"question {number + 1} is of category {category}")
        options: tuple[str, ...] = ()
        if category == ADVERSARIAL:
            options = _options(text, str(row.get("adversarial_answer", row.get("answer", ""))))
        elif row.get("answer") is None:
            raise ValueError(f"question {number + 1} has no answer")
        # A few gold answers are numbers.
        answer = NO_INFORMATION if category == ADVERSARIAL else str(row["answer"])
        right = self._wrong is not None and (item, text) not in self._wrong
        return Question(
            id=f"{item}-{number}",
            text=text,
            answers=(answer,),
            options=options,
            category=CATEGORIES[category],
            subsets=("audited",) if right else (),
            extra={"category": category, "index": index, "evidence": list(row.get("evidence", []))},
        )


def _turns(conversation: dict[str, Any]) -> Iterator[Document]:
    numbers = sorted(int(key.split("_")[1]) for key in conversation if key.split("_")[-1].isdigit())
    for number in numbers:
        turns = need(conversation, f"session_{number}", list)
        date = need(conversation, f"session_{number}_date_time", str) if turns else ""
        for turn in turns:
            text = f'{need(turn, "speaker", str)} said, "{need(turn, "text", str)}"'
            caption = turn.get("blip_caption")
            yield Document(f"{text} and shared {caption}." if caption else text, date=date)


def _sessions(history: Sequence[Entry], *, newest_first: bool) -> str:
    blocks = [
        f"DATE: {date}\nCONVERSATION:\n" + "\n".join(as_text(_undated(entry)) for entry in turns)
        for date, turns in groupby(history, key=_date)
    ]
    return "\n\n".join(reversed(blocks) if newest_first else blocks)


def _date(entry: Entry) -> str:
    return entry.date if isinstance(entry, Document) else ""


def _undated(entry: Entry) -> Entry:
    return Document(entry.text) if isinstance(entry, Document) else entry


def _asked(question: Question) -> str:
    if question.extra["category"] == TEMPORAL:
        return question.text + _DATE_HINT
    return question.text + _CHOICE.format(*question.options) if question.options else question.text


def _options(question: str, tempting: str) -> tuple[str, str]:
    """The two choices of an adversarial question, on sides that depend on its text alone."""
    even = hashlib.sha256(question.encode()).digest()[-1] % 2 == 0
    return (NO_INFORMATION, tempting) if even else (tempting, NO_INFORMATION)


def _messages(asked: str) -> list[Message]:
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]


def _wrong_keys(path: Path) -> frozenset[tuple[str, str]]:
    found = set()
    for place, row in read_rows(path):
        try:
            found.add((need(row, "sample_id", str), need(row, "question", str)))
        except ValueError as error:
            raise BadDataError(f"{place} does not name a question of LoCoMo: {error}.") from None
    return frozenset(found)


def _downloaded(revision: str) -> Path:
    """The data in the user's cache, fetched the first time.

    Raises:
        BadDataError: it cannot be fetched, or is not what it was.
    """
    path = Path.home() / ".cache" / "deltamem" / "locomo10.json"
    if not path.exists():
        address = URL.format(revision)
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read()
        except OSError as error:
            raise BadDataError(f"Cannot fetch {address} ({error}); pass a file with --data.") from None
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise BadDataError(f"{address} is not the file that published scores are about; pass one with --data.")
        write_atomically(path, data)
    return path
