"""HotpotQA (Yang et al., 2018), distractor setting; its official JSON, or rows as on the Hub."""

from collections.abc import Iterator

from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need, rows_of


def hotpotqa(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """The line of one question: its passages, in the layout of the evaluation, then the question."""
    if not row.get("answer"):
        yield Skipped("no answer")
        return
    passages = [
        f"Passage {number} - {title}:\n{''.join(sentences)}"
        for number, (title, sentences) in enumerate(passages_of(row), start=1)
    ]
    name = str(row.get("_id") or row.get("id") or "")
    yield example(name, passages, need(row, "question", str), need(row, "answer", str), style)


def passages_of(row: Row) -> list[tuple[str, list[str]]]:
    """The passages of a question, each a title and sentences.

    Raises:
        ValueError: the row has none in HotpotQA's layout.
    """
    context = row.get("context")
    if isinstance(context, dict):
        return [(need(part, "title", str), need(part, "sentences", list)) for part in rows_of(context)]
    if not isinstance(context, list) or not all(isinstance(part, list) and len(part) == 2 for part in context):
        raise ValueError("'context' is missing or not a list of titles with sentences")
    return [(title, sentences) for title, sentences in context]
