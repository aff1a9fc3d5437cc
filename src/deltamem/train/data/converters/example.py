"""What every converter gives: one training line, or the reason why a row has none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltamem.chat import Message

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How lines are put together.

    Attributes:
        ask: the visible turn, with ``{question}`` in it where there is a question.
        parts: one turn for each section, passage, session or paragraph instead of one for all.
        paragraphs: for plain documents, the paragraphs of a line, the one to predict included.
        explicit: for stories, only questions whose answer stands in the text.
        seed: for dialogues whose values are drawn anew, another seed, other values.
    """

    ask: str = "{question}"
    parts: bool = False
    paragraphs: int = 8
    explicit: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.paragraphs < 2:
            raise ValueError(
                f"paragraphs must be 2 or more, one to remember and one to predict, not {self.paragraphs}."
            )


@dataclass(frozen=True)
class Example:
    """A training line.

    Attributes:
        name: the id of the row and the question.
        messages: the turns; the last is the target, the last but one is visible with it.
    """

    name: str
    messages: tuple[Message, ...]

    @property
    def characters(self) -> int:
        """The length of all texts together."""
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Skipped:
    """A question that makes no line."""

    reason: str


def example(
    name: str, parts: Sequence[str], question: str, answer: str, style: Style, *, between: str = "\n\n"
) -> Example:
    """The line that writes ``parts``, with ``between`` them or a turn each, then asks, then answers."""
    told = [part.strip() for part in parts if part.strip()]
    turns = told if style.parts else [between.join(told)]
    return chat_example(name, [{"role": "user", "content": turn} for turn in turns], question, answer, style)


def chat_example(name: str, history: Sequence[Message], question: str, answer: str, style: Style) -> Example:
    """The line that writes a chat as it went, then asks, then answers."""
    asked: Message = {"role": "user", "content": style.ask.replace("{question}", question.strip())}
    return Example(name, (*history, asked, {"role": "assistant", "content": answer.strip()}))


def need(row: Any, name: str, kind: type) -> Any:
    """A field of a row.

    Raises:
        ValueError: the row has no such field of that type.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        have = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{name!r} is missing or not a {kind.__name__} (there is: {have})")
    return value


def rows_of(columns: Any) -> list[Row]:
    """Rows from the Hub's layout of nested lists, an object of equally long columns; a list of rows stays."""
    if isinstance(columns, list):
        return columns
    if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
        raise ValueError(f"expected a list of rows or an object of columns, not {type(columns).__name__}")
    try:
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    except ValueError:
        raise ValueError(f"the columns {', '.join(columns)} are not equally long") from None
