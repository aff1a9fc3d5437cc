"""MTS-Dialog (Ben Abacha et al., 2023): talks of doctors and patients, with the part of the note they are about."""

import re
from collections.abc import Iterator

from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need

_QUESTIONS = {
    "FAM/SOCHX": "What is the patient's family and social history?",
    "GENHX": "What is the history of the patient's present illness?",
    "PASTMEDICALHX": "What is the patient's past medical history?",
    "CC": "What is the patient's chief complaint?",
    "PASTSURGICAL": "Which operations has the patient had?",
    "ALLERGY": "Which allergies does the patient have?",
    "ROS": "What did the review of the patient's systems give?",
    "MEDICATIONS": "Which medications does the patient take?",
    "ASSESSMENT": "What is the assessment of the patient?",
    "EXAM": "What did the examination of the patient show?",
    "DIAGNOSIS": "What is the patient's diagnosis?",
    "DISPOSITION": "What was decided on the patient's disposition?",
    "PLAN": "What is the plan for the patient?",
    "EDCOURSE": "What happened to the patient in the emergency department?",
    "IMMUNIZATIONS": "Which immunizations has the patient had?",
    "IMAGING": "What did the patient's imaging show?",
    "GYNHX": "What is the patient's gynecologic history?",
    "PROCEDURES": "Which procedures has the patient had?",
    "OTHER_HISTORY": "What other history does the patient have?",
    "LABS": "What did the patient's laboratory tests show?",
}
_TURN = re.compile(r"\n(?=\s*\w+:)")


def mts_dialog(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line: the talk, the question that its section of the note answers, that section."""
    header = need(row, "section_header" if "section_header" in row else "section", str).strip().upper()
    note = need(row, "section_text" if "section_text" in row else "note", str)
    question = _QUESTIONS.get(header)
    if question is None:
        raise ValueError(f"there is no section {header!r}; there are {', '.join(_QUESTIONS)}")
    if not note.strip():
        yield Skipped("an empty note")
        return
    turns = _TURN.split("\n".join(need(row, "dialogue", str).splitlines()))
    yield example(str(row.get("ID", row.get("id", ""))), turns, question, note, style, between="\n")
