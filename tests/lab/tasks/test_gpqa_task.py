import csv

import pytest
from bench_rows import ANY_ROOM

from deltamem_lab.tasks.data import BadDataError
from deltamem_lab.tasks.gpqa import GPQA, choice_order

ROW = {
    "Record ID": "rec1",
    "Question": "Two plus two?",
    "Correct Answer": "four",
    "Incorrect Answer 1": "one",
    "Incorrect Answer 2": "two",
    "Incorrect Answer 3": "three",
    "High-level domain": "Arithmetic",
}


def write(path, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROW))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_question_is_asked_and_scored(tmp_path):
    task = GPQA(write(tmp_path / "gpqa.csv", ROW))
    (item,) = task.items("release")
    question = item.questions[0]
    (message,) = task.prompt(item, question, [], "release", ANY_ROOM)
    (right,) = question.answers
    assert f"{right}. four" in message["content"]
    assert task.score(item, question, f'{{"answer": "{right}"}}', "release") == {"accuracy": 1}
    wrong = next(letter for letter in "ABCD" if letter != right)
    assert task.score(item, question, wrong, "release") == {"accuracy": 0}


def test_the_order_of_choices_follows_from_the_id():
    orders = [choice_order(f"rec{n}") for n in range(40)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({order.index(0) for order in orders}) == 4
    assert choice_order("rec1") == choice_order("rec1")


def test_a_bad_row_is_named(tmp_path):
    with pytest.raises(BadDataError, match=r"bad\.csv, row 2.*Incorrect Answer 2"):
        GPQA(write(tmp_path / "bad.csv", ROW, {**ROW, "Incorrect Answer 2": ""}))
    with pytest.raises(BadDataError, match="no rows"):
        GPQA(write(tmp_path / "empty.csv"))
