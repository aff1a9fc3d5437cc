"""Reports: nothing of a model's output becomes markup, and what differs from a publication is marked."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_eval_records import RECORD, write

from deltamem_lab.interface import Cost
from deltamem_lab.published import CATEGORIES, QUESTIONS, ROWS, mean_of_benchmarks, published_for
from deltamem_lab.records import Record, shard_file
from deltamem_lab.report import write_report
from deltamem_lab.report.charts import pareto, pareto_front
from deltamem_lab.report.contents import contents
from deltamem_lab.report.page import to_html, to_markdown
from deltamem_lab.tasks.world import WorldTask

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
    assert "http" not in re.sub("http://www.w3.org/(2000/svg|1999/xlink)", "", page)


def test_markdown_escapes_too() -> None:
    text = to_markdown(contents(records()))
    assert "<script" not in text.replace("\\<", "")
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (9, 8, 4), line


def test_verdicts_and_examples_are_there() -> None:
    text = to_markdown(contents(records()))
    assert "better" in text
    assert "Where multi is right and the controls are wrong" in text
    assert "Where multi is wrong" not in text
    assert "No static control ran" in text


def rows(page: str, first: str) -> list[list[str]]:
    """The table rows that begin with this cell."""
    cells = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in page.splitlines() if line.startswith("| ")]
    return [row for row in cells if row[0] == first]


def asked(task: str, count: int, **same: object) -> list[Record]:
    """So many questions of a benchmark, all answered right, as the release would on Qwen3-4B."""
    base = replace(RECORD, task=task, protocol="release", model="Qwen/Qwen3-4B-Instruct-2507", category="", subsets=())
    return [replace(base, item=str(n), scores={"exact": 1.0, "f1": 0.5}, **same) for n in range(count)]  # type: ignore[arg-type]


def test_published_numbers_stand_beside_ours_with_a_mark() -> None:
    ours = asked("hotpotqa", 4, method="token+context")
    (row, *_) = rows(to_markdown(contents(ours)), "δ-mem TSW")
    assert row == ["δ-mem TSW", "Qwen3-4B-Instruct-2507", "49.41 \\| 100.00", "63.66 \\| 50.00", "questions 4/7,405"]
    other = [replace(record, model="embedded", protocol="official") for record in ours]
    table = rows(to_markdown(contents(other)), "δ-mem TSW")
    assert table[0][-1] == "backbone, protocol, questions 4/7,405"
    assert {row[1] for row in table} == {"Qwen3-4B-Instruct-2507", "Qwen3-8B", "SmolLM3-3B"}
    segment, bm25 = asked("locomo", 2, method="segment+context"), asked("locomo", 2, method="bm25")
    page = to_markdown(contents([*segment, *bm25]))
    assert rows(page, "δ-mem SSW")[0][-1] == "questions 2/1,540, writes"
    assert rows(page, "BM25 RAG")[0][-1] == "questions 2/1,540, settings not published"
    assert rows(page, "δ-mem SSW")[1][-1] == "questions, writes"
    page = to_markdown(contents([replace(segment[0], notes={"cut": True}), segment[1]]))
    marks = [row[-1] for row in rows(page, "δ-mem SSW")]
    assert marks == ["questions 2/1,540, cut 1, writes", "questions, cut, writes"]
    short = asked("ifeval", 2, method="token+context", settings={"answer tokens": "400"})
    scored = [replace(record, scores={"prompt_strict": 1.0}, main_metric="prompt_strict") for record in short]
    assert rows(to_markdown(contents(scored)), "δ-mem TSW")[0][-1] == "questions 2/541, answers of 400 tokens"


def test_the_same_questions_by_the_same_protocol_have_no_mark() -> None:
    """On GPQA nothing is read, so the published full context is no context here, and nothing needs a memory."""
    page = to_markdown(contents([*asked("gpqa", 198, method="none"), *asked("gpqa", 198, method="token+context")]))
    assert rows(page, "full context")[0][2:] == ["39.39 \\| 100.00", ""]
    assert rows(page, "δ-mem TSW")[0][2:] == ["40.40 \\| 100.00", ""]
    assert "needs memory" not in page
    assert "needs memory" in to_markdown(contents(asked("hotpotqa", 2, method="none")))


def test_without_context_the_figure_stands_beside_ours() -> None:
    ours = [replace(record, protocol="no_context") for record in asked("locomo", 1, method="token")]
    page = to_markdown(contents(ours))
    (row,) = rows(page, "δ-mem, state alone")
    assert "8.05" in page
    assert row[2] == "9.62 \\| 100.00"
    assert row[-1] == "questions 1/1,540, adapter not told"


def test_a_mean_is_set_beside_a_mean_of_its_kind() -> None:
    """SmolLM3's rows average MemoryAgentBench's competencies, Qwen3's its questions."""
    many, one = "Accurate_Retrieval", "Conflict_Resolution"
    base = asked("memoryagentbench", 4, method="full", averages=("question", "category"))
    mixed = [replace(r, category=one if r.item == "0" else many, scores={"exact": float(r.item == "0")}) for r in base]
    found = {}
    for model in ("SmolLM3-3B", "Qwen3-8B"):
        page = to_markdown(contents([replace(record, model=model) for record in mixed]))
        found[model] = rows(page, "full context")[0]
    assert found["SmolLM3-3B"][2] == "14.21 \\| 50.00"
    assert found["SmolLM3-3B"][-3:-1] == ["11.08 \\| 25.00", "14.21 \\| 50.00"]
    assert found["Qwen3-8B"][2] == "31.87 \\| 25.00"


def test_the_papers_table_has_both_averages() -> None:
    every = [record for task in QUESTIONS for record in asked(task, 1, method="token+context")]
    row = rows(to_markdown(contents(every)), "δ-mem TSW")[-1]
    assert row[-3:] == ["51.66", "51.16 \\| 100.00", "questions"]
    fewer = [record for record in every if record.task != "ifeval"]
    page = to_markdown(contents(fewer))
    assert rows(page, "δ-mem TSW")[-1][-2] == "51.16"
    assert "9.62" in page
    assert rows(page, "q, k, v, o") == [["q, k, v, o", "49.94", "46.15", "48.05"]]
    assert "The paper's table" not in to_markdown(contents(records()))


def test_printed_averages_follow_from_their_columns_but_one() -> None:
    printed = [row for row in ROWS if row.average is not None]
    assert len(printed) == 20
    wrong = [row for row in printed if abs(mean_of_benchmarks(row) - (row.average or 0)) > 0.011]
    assert [(row.label, row.model, round(mean_of_benchmarks(row), 2)) for row in wrong] == [
        ("δ-mem TSW", "Qwen3-4B-Instruct-2507", 51.16)
    ]
    for row in ROWS:
        for task in CATEGORIES.keys() & {name for name, _ in row.scores}:
            of_questions, of_categories = row.over_questions(task), row.over_categories(task)
            if of_questions is None or of_categories is None:
                continue
            small = row.model == "SmolLM3-3B" and task == "memoryagentbench"
            assert row.averaged(task) == ("category" if small else "question")
            off = abs(row.scores[task, ""] - (of_categories if small else of_questions))
            assert off < (0.29 if small and row.method == "token+context" else 0.07)
    assert published_for("world") == []
    assert sum(CATEGORIES["locomo"].values()) == QUESTIONS["locomo"]


def test_a_method_that_was_asked_less_says_so() -> None:
    found = [record for record in records() if record.method != "multi" or record.item in ("0/0", "0/1")]
    page = to_markdown(contents(found))
    assert rows(page, "multi")[0][2] == "2 of 2 items"
    assert rows(page, "none")[0][2] == "8"
    assert "Only some of the questions were asked of multi." in page
    assert "Only some" not in to_markdown(contents(records()))


def test_an_example_shows_what_was_read() -> None:
    full = [
        replace(record, method="full", prompt="the whole <story>") for record in records() if record.method == "none"
    ]
    page = to_html(contents([*records(), *full]))
    assert "<summary>what was read, in the prompt of full</summary><pre>the whole &lt;story&gt;</pre>" in page
    assert "what was read" not in to_html(contents(records()))


def test_costs_have_a_peak_where_one_was_measured_and_a_star_for_other_models() -> None:
    assert "peak memory" not in to_markdown(contents(records()))
    measured = [replace(record, cost=Cost(peak_bytes=3 << 20)) for record in records()]
    page = to_markdown(contents(measured))
    assert rows(page, "multi")[-1][-1] == "3.0"
    assert "What a question costs" in page
    html = to_html(contents([replace(r, method="dense") if r.method == "none" else r for r in records()]))
    assert ">dense*</text>" in html
    assert "* Some or all of what is written goes through a smaller" in html


def test_of_the_harness_neither_costs_nor_a_need_of_memory_are_told() -> None:
    page = to_markdown(contents([replace(record, cost=Cost()) for record in records("arc_easy", "harness")]))
    assert "Nothing is read before the question" in page
    assert "What a question costs" not in page
    assert "needs memory" not in page


def test_outdated_answers_are_counted_where_there_are_any() -> None:
    task = WorldTask()
    items = list(task.items("world", 6))
    asked = [(item, question) for item in items for question in item.questions]
    corrected = [(item, question) for item, question in asked if question.category == "corrected"]
    assert 0 < len(corrected) < len(asked)
    for item, question in asked:
        before = question.extra["replaces"]
        scores = task.score(item, question, f"{before}.", "world")
        assert scores.get("outdated") == (1.0 if before else None)
    made = [
        replace(RECORD, question=str(n), category=q.category, scores=task.score(item, q, q.answers[0], "world"))
        for n, (item, q) in enumerate(asked)
    ]
    assert "“outdated”: the answer is the value before a correction" in to_markdown(contents(made))


def test_labels_of_a_drawing_do_not_lie_on_one_another() -> None:
    points = {f"method {number}": (100.0 + number % 3, 0.5 + 0.001 * number) for number in range(14)}
    points |= {"at the right edge": (9_900.0, 1.0), "at the bottom": (9_900.0, 0.0)}
    labels = re.findall(r'<text [^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)</text>', pareto(points, frozenset()))
    assert {words for *_, words in labels} >= set(points)
    boxes = [(float(x), float(y), float(x) + 6.5 * len(words)) for x, y, words in labels if words in points]
    for number, (left, y, right) in enumerate(boxes):
        assert 0 <= left < right <= 760
        assert all(right <= other[0] or other[2] <= left or abs(y - other[1]) >= 12 for other in boxes[:number])


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
    with pytest.raises(ValueError, match="name one of them at a time"):
        write_report([tmp_path / "none", tmp_path / "again"], tmp_path / "report")
