"""Questions over documents in SQuAD's layout (Rajpurkar et al., 2016, 2018); its JSON, or rows as on the Hub."""

from collections.abc import Iterator
from typing import Any

from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need

_UNANSWERABLE = "Unanswerable"


def squad(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line for each question: the paragraph it is about, then the question, then its first answer."""
    if "questions" in row:
        for number, asked in enumerate(need(row, "questions", list), start=1):
            named = {"id": f"{row.get('id', '')}/{number}", **asked}
            yield _line(row, need(row, "context", str), named, style)
        return
    if "paragraphs" not in row:
        yield _line(row, need(row, "context", str), row, style)
        return
    for paragraph in need(row, "paragraphs", list):
        for asked in need(paragraph, "qas", list):
            yield _line(row, need(paragraph, "context", str), asked, style)


def _line(document: Row, context: str, asked: Row, style: Style) -> Example | Skipped:
    answers: Any = asked.get("answers")
    if isinstance(answers, dict):
        texts = need(answers, "text", list)
    elif isinstance(answers, list):
        texts = [answer if isinstance(answer, str) else need(answer, "text", str) for answer in answers]
    else:
        return Skipped("no answer")
    title = str(document.get("title") or "").replace("_", " ")
    name, question = str(asked.get("id", "")), need(asked, "question", str)
    return example(name, [title, context], question, texts[0] if texts else _UNANSWERABLE, style)
