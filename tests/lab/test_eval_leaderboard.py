"""The leaderboard: what is kept of a run, and the page made of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from test_eval_records import RECORD, write

from deltamem.cli.main import main
from deltamem_lab.interface import Cost
from deltamem_lab.leaderboard import collect, load_results, save_results
from deltamem_lab.notes import Notes, add_notes, read_notes
from deltamem_lab.records import Record, shard_file
from deltamem_lab.report.leaderboard import leaderboard
from deltamem_lab.report.page import to_markdown
from deltamem_lab.statistics import mean_interval, rate_interval

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "leaderboard"
NOTES = Notes(("deltamem eval --suite embedded",), {"llmlingua2": "no compressor", "none": "ran after all"})


def records() -> list[Record]:
    """Two seeds, six items each, of one or two questions; the memory is right in all of one seed, half of the other."""
    made = []
    for seed in range(2):
        for item in range(6):
            for question in range(1 + item % 2):
                key = {"item": f"{seed}/{item}", "question": str(question), "seed": seed, "model": "embedded"}
                for method, score in (("none", 0.0), ("multi", float(seed == 0 or item >= 3)), ("shuffled", 0.0)):
                    cost = Cost(write_tokens=100, prompt_tokens=10 + item, stored_bytes=6144)
                    made.append(replace(RECORD, **key, method=method, scores={"exact": score}, cost=cost))
    return made


def rows(page: str, after: str = "| rank") -> dict[str, list[str]]:
    """The rows of the first table that begins so, by the second cell, or by the first where that is the method."""
    table = (after + page.partition(after)[2]).partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[1 if after == "| rank" else 0]: row for row in cells[2:]}


def test_methods_are_ranked_with_intervals_and_the_spread_over_seeds() -> None:
    (found,) = collect(records(), NOTES)
    page = to_markdown(leaderboard([found]))
    table = rows(page)
    assert [row[0] for row in table.values()] == ["1", "2", "–"]
    assert list(table) == ["multi", "none", "shuffled"]
    right = [record.score for record in records() if record.method == "multi"]
    own = mean_interval(right, [record.item for record in records() if record.method == "multi"])
    assert own.value == pytest.approx(14 / 18)
    assert table["multi"][3] == f"{100 * own.value:.1f} ({100 * own.low:.1f}–{100 * own.high:.1f})"
    half = 5 / 9
    spread = 100 * (1 - half) / math.sqrt(2)
    assert table["multi"][4] == f"±{spread:.1f} ({100 * half:.1f}–100.0)"
    assert table["multi"][5:] == ["12", "100", "13", "6,144"]
    assert "Not run: llmlingua2: no compressor." in page
    assert "ran after all" not in page
    assert "deltamem eval --suite embedded" in page


def test_a_method_that_ran_on_fewer_items_says_so() -> None:
    fewer = [record for record in records() if record.method != "multi" or record.item == "0/1"]
    (found,) = collect(fewer, Notes())
    multi = next(entry for entry in found.entries if entry.method == "multi")
    assert [score for score in multi.scores if score is not None] == [2.0]
    table = rows(to_markdown(leaderboard([found])))
    assert table["multi"][0] == "–"
    assert table["none"][0] == "1"
    assert table["multi"][4:6] == ["–", "1 of 12 (seed 0)"]
    assert table["multi"][3].startswith("100.0 (")


def test_a_text_that_several_seeds_ask_about_counts_once() -> None:
    again = [replace(record, item=record.item.partition("/")[2]) for record in records()]
    multi = [record for record in again if record.method == "multi"]
    own = rate_interval([record.score for record in multi], [record.item for record in multi])
    (found,) = collect(again, NOTES)
    shown = rows(to_markdown(leaderboard([found])))["multi"][3]
    assert shown == f"{100 * own.value:.1f} ({100 * own.low:.1f}–{100 * own.high:.1f})"


def test_kinds_and_differences_stand_beside_the_ranks() -> None:
    kinds = ("2 facts", "16 facts")
    made = [replace(r, source=kinds[int(r.item[-1]) % 2], adapter="a" * (r.method != "none")) for r in records()]
    (found,) = collect(made, NOTES)
    page = to_markdown(leaderboard([found]))
    by_kind = rows(page, "| method | 2 facts | 16 facts |")
    assert by_kind["none"][1].startswith("0.0 (")
    assert float(by_kind["multi"][1].split(" ")[0]) == pytest.approx(100 * 4 / 6, abs=0.1)
    differences = rows(page, "| method | against none | against shuffled |")
    assert differences["multi"][1].startswith("+77.8 [")
    assert differences["multi"][1] == differences["multi"][2]
    assert differences["none"][1] == "–"
    assert "points needs about" in page


def test_an_unfinished_run_has_no_place() -> None:
    with pytest.raises(ValueError, match="multi has answered only some questions about item 0/1, seed 0"):
        collect([r for r in records() if (r.method, r.item, r.question) != ("multi", "0/1", "1")], Notes())


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    (found,) = collect(records(), NOTES)
    path = save_results(found, tmp_path)
    assert path.name == "world-embedded.json"
    assert load_results(path) == found
    data = json.loads(path.read_text("utf-8"))
    data["items"].pop()
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(ValueError, match="different lengths"):
        load_results(path)
    path.write_text("[]", "utf-8")
    with pytest.raises(ValueError, match="no results of deltamem leaderboard"):
        load_results(path)


def test_the_command_makes_the_same_page_of_a_run_and_of_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, kept, first, second = (tmp_path / name for name in ("run", "kept", "first.md", "second.md"))
    write(shard_file(run, 0, 1), *records())
    add_notes(run, "deltamem eval", {"dense": "needs an encoder"}, ("none",))
    for arguments in (
        [str(run), "--output", str(first), "--keep", str(kept)],
        [str(kept / "world-embedded.json"), "--output", str(second)],
    ):
        with pytest.raises(SystemExit) as left:
            main(["leaderboard", *arguments])
        assert not left.value.code
    assert first.read_text("utf-8") == second.read_text("utf-8")
    assert "needs an encoder" in first.read_text("utf-8")
    with pytest.raises(SystemExit) as left:
        main(["leaderboard", str(tmp_path / "nowhere")])
    assert left.value.code == 1
    assert "holds no records" in capsys.readouterr().err


@pytest.mark.skipif(not KEPT.is_dir(), reason="no results are kept yet")
def test_the_committed_page_is_what_the_kept_results_give() -> None:
    page = to_markdown(leaderboard([load_results(path) for path in sorted(KEPT.glob("*.json"))]))
    assert (ROOT / "docs" / "leaderboard.md").read_text("utf-8") == page


def test_notes_add_up(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == Notes()
    add_notes(tmp_path, "first", {"dense": "why", "static": "not trained"}, ("none",))
    add_notes(tmp_path, "second", {"llmlingua2": "why"}, ("none", "static"))
    add_notes(tmp_path, "first", {}, ())
    assert read_notes(tmp_path) == Notes(("first", "second"), {"dense": "why", "llmlingua2": "why"})
    (tmp_path / "notes.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        read_notes(tmp_path)
