"""Rows written by hand in each benchmark's own format."""

import json
from pathlib import Path
from typing import Any

from deltamem_lab.interface import Budget

ANY_ROOM = Budget(None, len)


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


class Words:
    """A tokenizer whose tokens are what stands between white space."""

    model_max_length = 10**9

    def encode(self, text: str, add_special_tokens: bool = True) -> list[str]:
        return text.split()

    def decode(self, tokens: list[str], skip_special_tokens: bool = False) -> str:
        return " ".join(tokens)


def words(tokens: int | None, template: int = 0) -> Budget:
    """Room for so many words, of which each message takes more where the template adds some."""
    return Budget(
        tokens,
        lambda messages: sum(template + len(message["content"].split()) for message in messages),
        Words(),
    )


LOCOMO: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Bruno",
        "session_2_date_time": "3 pm on 2 June, 2023",
        "session_2": [{"speaker": "Ada", "dia_id": "D2:1", "text": "I bought a cello."}],
        "session_1_date_time": "1 pm on 1 May, 2023",
        "session_1": [
            {"speaker": "Ada", "dia_id": "D1:1", "text": "I moved to Oslo.", "blip_caption": "a photo of a fjord"},
            {"speaker": "Bruno", "dia_id": "D1:2", "text": "Good for you!"},
        ],
        "session_3_date_time": "no such session",
    },
    "qa": [
        {
            "question": "What did Ada buy and where is she?",
            "answer": "cello, Oslo",
            "category": 1,
            "evidence": ["D2:1"],
        },
        {"question": "When did Ada move?", "answer": 2023, "category": 2, "evidence": ["D1:1"]},
        {"question": "Is Ada musical?", "answer": "Yes; she has a cello", "category": 3, "evidence": []},
        {"question": "Which instrument has Ada?", "answer": "a cello", "category": 4, "evidence": ["D2:1"]},
        {"question": "What did Bruno buy?", "adversarial_answer": "a cello", "category": 5, "evidence": ["D2:1"]},
    ],
}

HOTPOT: dict[str, Any] = {
    "id": "h1",
    "question": "Were both Norwegian?",
    "answer": "yes",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": {"title": ["One", "Two"], "sent_id": [0, 0]},
    "context": {"title": ["One", "Two"], "sentences": [["He was Norwegian.", " He sang."], ["So was she."]]},
}

MAB: dict[str, Any] = {
    "split": "Test_Time_Learning",
    "context": "play some jazz\nlabel: 4\n\nwake me at six\nlabel: 7",
    "questions": ["play the blues", "set an alarm"],
    "answers": [["4"], ["7", "seven"]],
    "metadata": {"source": "icl_toy_2shot_balance", "qa_pair_ids": ["toy_no0", "toy_no1"], "question_types": None},
}

IFEVAL: dict[str, Any] = {
    "key": 1,
    "prompt": "Name two colours in lower case. Use no commas.",
    "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
    "kwargs": [{"num_words": None}, {}],
}

LONGMEMEVAL: dict[str, Any] = {
    "question_id": "q1",
    "question_type": "knowledge-update",
    "question": "Where do I live?",
    "answer": "Porto",
    "question_date": "2023/06/01 (Thu) 10:00",
    "haystack_dates": ["2023/05/02 (Tue) 09:00", "2023/05/01 (Mon) 08:00"],
    "haystack_session_ids": ["s2", "s1"],
    "haystack_sessions": [
        [{"role": "user", "content": "I moved to Porto.", "has_answer": True}],
        [{"role": "user", "content": "I live in Lisbon."}, {"role": "assistant", "content": "Nice!"}],
    ],
    "answer_session_ids": ["s2"],
}
