"""FairytaleQA (Xu et al., 2022): stories in sections, with experts' questions; the authors' files, or a story a row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltamem.train.data.converters.datafiles import read_rows
from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need
from deltamem.train.data.lines import BadDataError

_QUESTIONS, _STORY = "-questions.csv", "-story.csv"


def fairytaleqa(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line for each question about a story: its sections, the question, its first answer."""
    sections = [need(section, "text", str) for section in need(row, "sections", list)]
    title = need(row, "story", str)
    for number, asked in enumerate(need(row, "questions", list), start=1):
        answers = need(asked, "answers", list)
        if style.explicit and not need(asked, "explicit", bool):
            yield Skipped("an answer that does not stand in the text")
        elif not answers:
            yield Skipped("no answer")
        else:
            yield example(f"{title}/{number}", sections, need(asked, "question", str), answers[0], style)


def read_stories(path: Path) -> Iterator[tuple[str, Any]]:
    """Every story of a folder ``questions``, or of one in it, with the sections that lie in ``section-stories`` beside.

    Other files are rows of stories already (see :func:`read_rows`).

    Raises:
        BadDataError: a story's sections are not there, or a file cannot be read.
    """
    files = sorted(path.rglob(f"*{_QUESTIONS}")) if path.is_dir() else []
    if not files:
        yield from read_rows(path)
        return
    for file in files:
        title = file.name.removesuffix(_QUESTIONS)
        story = _story_of(file, title)
        sections = [need(row, "text", str) and row for _, row in read_rows(story)]
        questions = [_question(row, place) for place, row in read_rows(file)]
        yield str(file), {"story": title, "sections": sections, "questions": questions}


def _story_of(file: Path, title: str) -> Path:
    parts = list(file.parent.parts)
    if "questions" in parts:
        place = len(parts) - 1 - parts[::-1].index("questions")
        parts[place] = "section-stories"
    story = Path(*parts) / f"{title}{_STORY}"
    if not story.is_file():
        raise BadDataError(f"{file}: its story {story} is not there; keep the authors' folders as they are.")
    return story


def _question(row: Row, place: str) -> Row:
    """A question as the rows of stories have it."""
    try:
        answers = [row[f"answer{number}"] for number in range(1, 7) if (row.get(f"answer{number}") or "").strip()]
        return {
            "question": need(row, "question", str),
            "answers": answers,
            "explicit": need(row, "ex-or-im1", str).strip().lower() == "explicit",
        }
    except ValueError as error:
        raise BadDataError(f"{place} does not have the layout of fairytaleqa: {error}.") from None
