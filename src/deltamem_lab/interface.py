"""What a benchmark and a method are to one another.

A task says what is read, what is asked, how a prompt looks and how an answer is scored. A method says what it keeps
of what it read, and what of it the prompt shows. Neither knows the other: any method runs on any task.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from deltamem.chat import Message

Average = Literal["question", "category", "source"]


@dataclass(frozen=True)
class Document:
    """A passage of a history that is not a turn of a chat.

    Attributes:
        text: the passage.
        title: its heading, if it has one.
        date: when it was said or written, in the benchmark's own words.
    """

    text: str
    title: str = ""
    date: str = ""


Entry = Message | Document


@dataclass(frozen=True)
class Question:
    """One question about a history.

    Attributes:
        id: unique within its item.
        text: the question as the benchmark asks it.
        answers: every answer that counts as right.
        options: of a multiple choice, in the order shown.
        category: a column of the benchmark's table.
        subsets: further named groups that are reported apart, such as ``audited``.
        axes: numbers to draw the score against, by name, such as how many tokens ago the answer was told.
        weights: how much it counts in the mean of a metric, by its name, where that is not 1.
        extra: whatever the task needs to build the prompt or to score, such as evidence ids. Plain JSON data.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    category: str = ""
    subsets: tuple[str, ...] = ()
    axes: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A history and the questions about it.

    Attributes:
        id: unique within its task.
        history: what is read, oldest first.
        questions: what is asked afterwards, each independently of the others.
        source: the part of the benchmark it comes from, for averages over sources.
        extra: whatever the task needs for all questions of the item. Plain JSON data.
    """

    id: str
    history: tuple[Entry, ...]
    questions: tuple[Question, ...]
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated; a temperature of 0 is greedy.

    Attributes:
        max_new_tokens: the most tokens of an answer.
        temperature: of sampling.
        top_p: of sampling; 1 keeps all.
        top_k: of sampling; 0 keeps all.
        seed: of sampling, for this question.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Budget:
    """The room a prompt has.

    Attributes:
        tokens: how many the prompt may have, all that the chat template adds included; ``None`` for any number.
        length: how many tokens a prompt of these messages is.
        tokenizer: for protocols that count and cut the texts themselves in tokens; there wherever ``tokens`` is.
    """

    tokens: int | None
    length: Callable[[Sequence[Message]], int]
    tokenizer: Any = None

    def fits(self, messages: Sequence[Message]) -> bool:
        """Whether there is room for a prompt."""
        return self.tokens is None or self.length(messages) <= self.tokens

    def most(self, number: int, render: Callable[[int], Sequence[Message]]) -> int:
        """The largest number up to ``number`` of what a prompt shows that there is room for, by bisection.

        Args:
            number: the most.
            render: the prompt that shows so many; it grows with their number.

        Returns:
            the number, and 0 also where not even a prompt that shows nothing has room.
        """
        if self.fits(render(number)):
            return number
        low, high = 0, number
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(render(middle)) else (low, middle)
        return low


@dataclass(frozen=True)
class PublishedSize:
    """The published size of a data set; tokens are means, at four characters a token where we had the data.

    Attributes:
        items: histories, or questions where there are none.
        questions: how many.
        history: tokens of a history; 0 if there are none.
        full: tokens of a prompt that shows as much of it as the first protocol does.
        bare: tokens of one that shows nothing of it.
        new: the most tokens of an answer.
    """

    items: int
    questions: int
    history: int
    full: int
    bare: int
    new: int


class Task(Protocol):
    """A benchmark.

    A protocol fixes prompts, decoding and scoring. The method decides which part of the history is visible,
    and passes that part to :meth:`prompt`. With nothing to show, the task renders the benchmark's no-context
    condition.
    """

    @property
    def name(self) -> str:
        """As in records and tables."""

    @property
    def revision(self) -> str:
        """Of the data: Hub id and commit, or the file's SHA-256."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What else its answers or scores depend on, besides data and protocol, such as the judge."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The names that every method below takes; the first is the default."""

    @property
    def main_metric(self) -> str:
        """The score that tables show."""

    @property
    def averages(self) -> tuple[Average, ...]:
        """How that score is averaged: over questions, over the means of the categories, or of the sources.

        The first is compared with published numbers; if a publication is ambiguous, all of them are reported.
        """

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """The items in a fixed order; at most ``limit`` of them."""

    def prompt(
        self, item: Item, question: Question, history: Sequence[Entry], protocol: str, budget: Budget
    ) -> list[Message]:
        """The messages that ask a question.

        Args:
            item: the item asked about.
            question: one of its questions.
            history: the part of the item's history to show, in its order; empty for none. Entries may be excerpts.
            protocol: one of :attr:`protocols`.
            budget: the room, for protocols that decide what to leave out. If a prompt is still too long, it is
                requested again with less history.
        """

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """How the answer is generated."""

    def score(self, item: Item, question: Question, output: str, protocol: str) -> dict[str, float]:
        """Every metric of an answer, :attr:`main_metric` among them; each in [0, 1]."""


@dataclass(frozen=True)
class Cost:
    """What a method spent.

    Attributes:
        write_tokens: tokens that passed through a model to keep the item's history.
        write_seconds: the time that took, retrieval indices included.
        prompt_tokens: tokens of the prompt that passed through the model for this answer.
        new_tokens: tokens generated.
        answer_seconds: the time this answer took; of a batch, its share.
        peak_bytes: the most memory held while the history was read or the question answered, beyond what was held
            before; 0 where it is not measured. On a GPU as PyTorch allocates, on a CPU the process's resident memory,
            in which some that is freed may still count.
        stored_bytes: what the method keeps of the history between turns.
    """

    write_tokens: int = 0
    write_seconds: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0
    answer_seconds: float = 0.0
    peak_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True)
class Answer:
    """What a method says.

    Attributes:
        text: the raw output, without special tokens.
        prompt: the prompt as the model saw it.
        cost: what it took. Writing counts for every answer about the item, because each needed it.
        notes: anything else worth recording, such as what was retrieved. Plain JSON data.
    """

    text: str
    prompt: str
    cost: Cost
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """A question put to a method.

    Attributes:
        question: what is asked.
        render: the prompt's messages that show the given part of the history, within a budget.
        decoding: how to generate the answer.
    """

    question: Question
    render: Callable[[Sequence[Entry], Budget], list[Message]]
    decoding: Decoding


class Method(Protocol):
    """A way to answer questions about what was read."""

    @property
    def name(self) -> str:
        """As in records and tables."""

    @property
    def stranger(self) -> bool:
        """Whether, as a control, it gets another item's history to read."""

    @property
    def needs_history(self) -> bool:
        """Whether to leave it out if an item has no history, because it would then be another method."""

    @property
    def fingerprint(self) -> str:
        """That of what was trained for it, such as an adapter; empty if nothing was."""

    def reset(self, seed: int) -> None:
        """Forgets everything; random choices depend on ``seed`` and on what is observed."""

    def observe(self, history: Sequence[Entry]) -> None:
        """Reads a history, or more of it."""

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers questions, each as if it were the only one; this does not change what was observed."""


def as_messages(history: Sequence[Entry]) -> list[Message]:
    """A history as chat messages: a document is a user's message that begins with its date and title."""
    return [_message(entry) for entry in history]


def as_text(entry: Entry) -> str:
    """The words of an entry, without who said them."""
    return _message(entry)["content"]


def as_one_text(entries: Iterable[Entry]) -> str:
    """The words of entries, each on lines of its own."""
    return "\n".join(as_text(entry) for entry in entries)


def bare_text(entry: Entry) -> str:
    """The words of an entry without a document's date and title."""
    return entry.text if isinstance(entry, Document) else entry["content"]


def text_bytes(entries: Iterable[Entry]) -> int:
    """How many bytes the words of entries take, in UTF-8."""
    return sum(len(as_text(entry).encode()) for entry in entries)


def date_of(entry: Entry) -> str:
    """The date of an entry as it was written; empty for none."""
    return entry.date if isinstance(entry, Document) else ""


def _message(entry: Entry) -> Message:
    if not isinstance(entry, Document):
        return {"role": entry["role"], "content": entry["content"]}
    head = [part for part in (entry.date, entry.title) if part]
    return {"role": "user", "content": "\n".join([*head, entry.text])}
