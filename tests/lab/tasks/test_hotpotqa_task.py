from pathlib import Path

import pytest
from bench_rows import ANY_ROOM, HOTPOT, write_json, write_lines

from deltamem_lab.tasks.data import BadDataError, hub_revision
from deltamem_lab.tasks.hotpotqa import HotpotQA

OFFICIAL = {
    "_id": "h2",
    "question": "Who sang?",
    "answer": "U.S.",
    "type": "bridge",
    "level": "easy",
    "context": [["One", ["He was Norwegian.", " He sang."]]],
}


def test_the_prompt_has_numbered_passages(tmp_path):
    task = HotpotQA(write_lines(tmp_path / "h.jsonl", [HOTPOT]))
    (item,) = task.items("release")
    question = item.questions[0]
    assert (question.category, question.subsets) == ("comparison", ("hard",))
    assert task.prompt(item, question, item.history, "release", ANY_ROOM) == [
        {
            "role": "user",
            "content": "Answer the question using only the passages below.\nReply with a short span or yes/no only.\n\n"
            "Passage 1 - One:\nHe was Norwegian. He sang.\n\nPassage 2 - Two:\nSo was she.\n\n"
            "Question: Were both Norwegian?\nAnswer:",
        }
    ]
    for messages in (
        task.prompt(item, question, [], "release", ANY_ROOM),
        task.prompt(item, question, item.history, "no_context", ANY_ROOM),
    ):
        assert "No passages provided." in messages[0]["content"]
        assert "Norwegian." not in messages[0]["content"]


def test_both_layouts_of_the_data_are_read_and_scored(tmp_path):
    task = HotpotQA(write_json(tmp_path / "h.json", [OFFICIAL, HOTPOT]))
    first, second = task.items("release")
    assert first.history[0].text == "He was Norwegian. He sang."
    assert task.score(first, first.questions[0], "US\nbecause", "official") == {"em": 1, "f1": 1}
    assert task.score(first, first.questions[0], "US", "release")["em"] == 0
    assert task.score(second, second.questions[0], "yes they were", "official")["f1"] == 0
    assert len(list(task.items("release", 1))) == 1


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "validation-0.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([HOTPOT]), path)
    (item,) = HotpotQA(path).items("release")
    assert item.history[1].title == "Two"


@pytest.mark.parametrize(
    ("change", "message"), [({"answer": None}, "answer"), ({"id": ""}, "no id"), ({"context": "text"}, "context")]
)
def test_a_bad_row_is_named(tmp_path, change, message):
    path = write_lines(tmp_path / "bad.jsonl", [HOTPOT, {**HOTPOT, **change}])
    with pytest.raises(BadDataError, match=r"bad\.jsonl:2.*" + message):
        HotpotQA(path)


def test_data_of_the_hub_is_named_by_its_commit():
    file = Path("hub/datasets--a--b/snapshots/0123abcd/data/rows.parquet")
    assert hub_revision("a/b", file, "0123abcd") == "a/b@0123abcd"
    assert hub_revision("a/b", file, None) == "a/b@0123abcd (unpinned)"


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadDataError, match="no such file"):
        HotpotQA(tmp_path / "missing.json")
    with pytest.raises(BadDataError, match="must be an object, not list"):
        HotpotQA(write_lines(tmp_path / "lists.jsonl", [[1]]))
    (tmp_path / "broken.jsonl").write_text('{"id": \n', "utf-8")
    with pytest.raises(BadDataError, match=r"broken\.jsonl:1: not JSON"):
        HotpotQA(tmp_path / "broken.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(BadDataError, match=r"broken\.parquet: cannot be read"):
        HotpotQA(tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match="revision"):
        HotpotQA(write_lines(tmp_path / "h.jsonl", [HOTPOT]), revision="main")
