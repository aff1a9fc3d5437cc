"""Records that survive an interruption."""

from dataclasses import replace
from pathlib import Path

import pytest

from deltamem_lab.interface import Cost
from deltamem_lab.records import Record, Writer, check_same_run, clip, read_run, shard_file

RECORD = Record(
    task="world",
    protocol="world",
    item="0/0",
    question="0",
    method="none",
    seed=0,
    category="2 facts",
    source="2 facts",
    subsets=("odd",),
    ask="Where do I live?",
    gold=("Oslo.", "In Oslo."),
    output='<b>"Osló"\n',
    scores={"exact": 0.0},
    main_metric="exact",
    averages=("question",),
    prompt="…",
    prompt_hash="00",
    cost=Cost(prompt_tokens=3),
)


def write(path: Path, *records: Record) -> None:
    writer = Writer(path)
    writer.add(records)
    writer.close()


def test_a_record_comes_back_as_it_was() -> None:
    assert "\n" not in RECORD.to_json()
    assert Record.from_json(RECORD.to_json()) == RECORD


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = shard_file(tmp_path, 0, 1)
    write(path, RECORD, replace(RECORD, question="1"))
    whole = path.read_bytes()
    for cut in (1, 7, len(RECORD.to_json())):
        path.write_bytes(whole[:-cut])
        assert [record.question for record in read_run(tmp_path)] == ["0"]
    write(path, replace(RECORD, question="2"))
    assert [record.question for record in read_run(tmp_path)] == ["0", "2"]


def test_a_damaged_line_inside_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = shard_file(tmp_path, 0, 1)
    write(path, RECORD)
    path.write_text("{}\n" + path.read_text("utf-8"), "utf-8")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1"):
        read_run(tmp_path)


def test_shards_are_one_run(tmp_path: Path) -> None:
    for shard in range(3):
        write(shard_file(tmp_path, shard, 3), RECORD, replace(RECORD, item=f"0/{shard}"))
    assert len(read_run(tmp_path)) == 3
    with pytest.raises(FileNotFoundError, match="deltamem eval"):
        read_run(tmp_path / "elsewhere")


def test_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    check_same_run(tmp_path, {"model": "a", "options": {"turns": 3}})
    check_same_run(tmp_path, {"model": "a", "options": {"turns": 3}})
    with pytest.raises(ValueError, match="model differ"):
        check_same_run(tmp_path, {"model": "b", "options": {"turns": 3}})
    with pytest.raises(ValueError, match=r"options of turns differ \(3 before, 2 now\)"):
        check_same_run(tmp_path, {"model": "a", "options": {"turns": 2}})


def test_a_run_may_grow(tmp_path: Path) -> None:
    for name in ("none", "multi"):
        check_same_run(tmp_path, {"model": "a", "methods": {name: name}})
    check_same_run(tmp_path, {"model": "a", "methods": {"none": "none"}})
    with pytest.raises(ValueError, match="methods of multi differ"):
        check_same_run(tmp_path, {"model": "a", "methods": {"multi": "other"}})


def test_long_prompts_are_clipped() -> None:
    assert clip("short") == "short"
    long = "a" * 50_000 + "z"
    assert len(clip(long)) < 7_000
    assert clip(long).endswith("z")
