"""Reports: nothing of a model's output becomes markup, and what differs from a publication is marked."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_eval_records import RECORD, write

from deltamem.eval.published import COLUMNS, ROWS, published_for
from deltamem.eval.records import Record, shard_file
from deltamem.eval.report import write_report
from deltamem.eval.report.charts import pareto_front
from deltamem.eval.report.contents import contents
from deltamem.eval.report.page import to_html, to_markdown

EVIL = '</pre><script>alert(1)</script> | `x` [a](javascript:b) & "q"'


def records(task: str = "world", protocol: str = "world") -> list[Record]:
    """Two methods and a control on eight items; the memory is always right, the others never."""
    base = replace(RECORD, task=task, protocol=protocol, model="embedded", prompt=EVIL, ask=EVIL)
    return [
        replace(base, item=f"0/{item}", method=method, output=EVIL, adapter=adapter, scores={"exact": score})
        for item in range(8)
        for method, adapter, score in (("none", "", 0.0), ("multi", "abc", 1.0), ("shuffled", "abc", 0.0))
    ]


class Tags(HTMLParser):
    """Collects the tags of a page and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") or (value or "").startswith("javascript") for name, value in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    page = to_html(contents(records()))
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert tags.seen.isdisjoint({"script", "img", "link", "iframe"})
    assert {"table", "svg", "details"} <= tags.seen
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_markdown_escapes_too() -> None:
    text = to_markdown(contents(records()))
    assert "<script" not in text.replace("\\<", "")
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (8, 5, 4), line


def test_verdicts_and_examples_are_there() -> None:
    text = to_markdown(contents(records()))
    assert "better" in text
    assert "Where multi is right and the controls are wrong" in text
    assert "Where multi is wrong" not in text
    assert "No static control ran" in text


def test_published_numbers_stand_beside_ours_with_a_mark() -> None:
    page = to_html(contents(records("hotpotqa", "release")))
    assert "49.41" in page
    assert "42.35" in page
    ours = replace(records("hotpotqa", "official")[1], method="token+context")
    assert "49.41 | 100.00" in to_html(contents([ours]))
    assert "backbone, protocol" in to_html(contents([ours]))
    same = replace(ours, model="Qwen/Qwen3-4B-Instruct-2507", protocol="release")
    row = next(line for line in to_markdown(contents([same])).splitlines() if "49.41" in line)
    assert row.endswith("|  |")


def test_the_published_table_is_whole() -> None:
    assert len(ROWS) == 20
    assert all(len(row.scores) == len(COLUMNS) for row in ROWS if row.method == "full")
    assert all(0 <= value <= 100 for row in ROWS for value in row.scores.values())
    assert next(row.label for row in published_for("locomo") if row.model == "SmolLM3-3B") == "full context"
    assert published_for("world") == []


def test_the_line_of_no_better_for_less() -> None:
    points = {"dear": (100.0, 0.9), "cheap": (1.0, 0.2), "worse": (50.0, 0.1), "middle": (10.0, 0.5)}
    assert pareto_front(points) == ["cheap", "middle", "dear"]


def test_several_runs_make_one_report_unless_they_disagree(tmp_path: Path) -> None:
    for name in ("none", "multi"):
        write(shard_file(tmp_path / name, 0, 1), *(r for r in records() if r.method == name))
    page, text = write_report([tmp_path / "none", tmp_path / "multi"], tmp_path / "report")
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert "multi" in text.read_text("utf-8")
    write(shard_file(tmp_path / "again", 0, 1), replace(records()[0], output="other"))
    with pytest.raises(ValueError, match="take the runs one by one"):
        write_report([tmp_path / "none", tmp_path / "again"], tmp_path / "report")
