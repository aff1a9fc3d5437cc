"""QASPER (Dasigi et al., 2021): questions about papers; its official JSON, or rows as on the Hub."""

from collections.abc import Iterator

from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need, rows_of


def qasper(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line for each question of a paper, with the answer of its first annotator.

    As in the official evaluation, extracted spans are joined by commas, and the other answers are ``Yes``, ``No``
    and ``Unanswerable``.
    """
    sections = [
        "\n".join([section.get("section_name") or "", *need(section, "paragraphs", list)])
        for section in rows_of(row.get("full_text"))
    ]
    parts = ["\n\n".join([need(row, "title", str), row.get("abstract") or ""]), *sections]
    for number, asked in enumerate(rows_of(row.get("qas"))):
        name = f"{row.get('id', '')}/{asked.get('question_id', number)}"
        answer = _answer(asked)
        if answer is None:
            yield Skipped("no answer")
        else:
            yield example(name, parts, need(asked, "question", str), answer, style)


def _answer(asked: Row) -> str | None:
    answers = rows_of(asked.get("answers") or [])
    if not answers:
        return None
    first = need(answers[0], "answer", dict)
    if first.get("unanswerable"):
        return "Unanswerable"
    if first.get("free_form_answer"):
        return str(first["free_form_answer"])
    if first.get("extractive_spans"):
        return ", ".join(first["extractive_spans"])
    return {True: "Yes", False: "No"}.get(first.get("yes_no"))
