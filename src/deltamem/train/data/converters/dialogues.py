"""Dialogues in dated sessions with questions about them, laid out as LoCoMo (Maharana et al., 2024) is."""

import re
from collections.abc import Iterator

from deltamem.train.data.converters.example import Example, Row, Skipped, Style, example, need

_SESSION = re.compile(r"session_(\d+)")


def dialogues(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line for each question about a dialogue: its sessions in order, with their dates, then the question."""
    conversation = need(row, "conversation", dict)
    numbers = sorted(int(match[1]) for key in conversation if (match := _SESSION.fullmatch(key)))
    if not numbers:
        raise ValueError("'conversation' has no session_1, session_2, …")
    sessions = [_session(conversation, number) for number in numbers]
    for number, asked in enumerate(need(row, "qa", list), start=1):
        # The adversarial questions have only the answer that is wrong.
        if asked.get("answer") in (None, ""):
            yield Skipped("no answer")
            continue
        name = f"{row.get('sample_id', '')}/{number}"
        yield example(name, sessions, need(asked, "question", str), str(asked["answer"]), style)


def _session(conversation: Row, number: int) -> str:
    """A session as text, in the words of LoCoMo's own prompt."""
    date = conversation.get(f"session_{number}_date_time")
    lines = [f"DATE: {date}"] if date else []
    lines.append("CONVERSATION:")
    for turn in need(conversation, f"session_{number}", list):
        said = f'{need(turn, "speaker", str)} said, "{need(turn, "text", str)}"'
        lines.append(f"{said} and shared {turn['blip_caption']}." if turn.get("blip_caption") else said)
    return "\n".join(lines)
