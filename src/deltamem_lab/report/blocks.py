"""What a report is made of, before it is HTML or Markdown. Texts are plain: whoever renders them escapes them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the report's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: the headings.
        rows: as many cells each.
        marked: the numbers of rows that stand apart, such as controls.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        svg: an SVG element.
        caption: what it shows, in a sentence.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Example:
    """An answer to look at.

    Attributes:
        title: what it is an example of.
        facts: pairs of a label and a text, such as the question, the gold answer and what each method said.
        folds: pairs of a label and a long text, such as the prompt, to be opened.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    folds: Sequence[tuple[str, str]]


Block = Heading | Paragraph | Table | Chart | Example
