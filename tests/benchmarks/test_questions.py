import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from deltamem.demo.reader import Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import USER, sample_dialogue, sample_people
from questions import adversary, common, forgetting, interference
from questions.dialogues import about_strangers, contradiction, many_facts

ADAPTERS = Path(__file__).parents[2] / "src" / "deltamem" / "demo" / "assets" / "adapters"


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a question's script and gives its report; the plot lies beside it."""

    def run(question: Any, *options: str) -> dict[str, Any]:
        report = tmp_path / "report.json"
        given = [*options, "--json", str(report), "--plot", str(tmp_path / "plot.png")]
        monkeypatch.setattr(sys, "argv", [str(question.__file__), *given])
        question.main()
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        found: dict[str, Any] = json.loads(report.read_text())
        assert found["command"].startswith(f"python benchmarks/questions/{Path(question.__file__).name} ")
        assert found["machine"]["threads"] == 1
        return found

    return run


def test_a_curve_of_forgetting_ends_where_its_control_begins(ask: Any) -> None:
    report = ask(forgetting, "--marks", "0", "1000", "1100", "--rows", "6", "4", "4")
    for courses in report["courses"].values():
        for course in courses.values():
            assert len(course["norms"]) == 3
            assert course["recall"][0]["own"]["value"] > course["recall"][0]["other"]["value"] + 0.5
            assert all(point["verdict"] == "better" for point in course["recall"][:-1])
            assert len(course["recall"]) == 3 or course["recall"][-1]["verdict"] != "better"
    lost, kept = report["courses"]["other people's facts"]["token"], report["courses"]["small talk"]["multi"]
    assert len(lost["recall"]) < 3
    assert kept["recall"][-1]["own"]["value"] > 0.6
    assert kept["norms"][-1]["tokens"] >= 1100


def test_a_row_reads_the_same_text_whatever_the_number_of_rows() -> None:
    reader = Reader(*load_demo())
    rng = random.Random(0)
    dialogues = [sample_dialogue(rng, facts=2, split="test") for _ in range(3)]
    few = forgetting.Course(reader, "token", "small talk", dialogues[:2])
    many = forgetting.Course(reader, "token", "small talk", dialogues)
    few.read_on(40, 1)
    many.read_on(40, 3)
    assert few.since[0] == many.since[0] >= 40
    assert few.state.tokens[0] == many.state.tokens[0]
    assert few.state.diff(many.state.select([0])).max() < 1e-3


def test_interference_takes_further_adapters(ask: Any) -> None:
    report = ask(interference, "--facts", "3", "1", "--questions", "12", "--adapter", f"mine={ADAPTERS / 'token'}")
    assert report["facts"] == [1, 3]
    assert report["recall"]["mine"] == report["recall"]["token"]
    assert report["other"]["mine"] == report["other"]["token"]
    assert report["recall"]["multi"]["1"]["value"] > 0.8 > 0.2 > report["other"]["multi"]["1"]["value"]
    assert report["recall"]["none"]["3"]["value"] < 0.2
    assert report["adapters"]["multi"]["bytes"] == 6144
    assert report["adapters"]["multi"]["held"] == pytest.approx(3 * report["recall"]["multi"]["3"]["value"], abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "mine"], "'mine' is not NAME=FOLDER"),
        (["--adapter", "multi=x"], "the name 'multi' is taken"),
        (["--adapter", "mine=not/there/at all"], "There is no adapter folder"),
        (["--facts", "0"], "start at 1"),
        (["--plot", "x.gif"], "must end in .png or .svg"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["interference.py", *options])
    with pytest.raises(SystemExit) as stopped:
        interference.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_marks_need_as_many_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["forgetting.py", "--marks", "0", "10", "--rows", "4"])
    with pytest.raises(SystemExit):
        forgetting.main()
    assert "--rows needs a number for each of --marks" in capsys.readouterr().err


def test_an_adversary_plants_facts_that_are_taken_for_true(ask: Any) -> None:
    report = ask(adversary, "--dialogues", "6", "--most", "1")
    assert set(report["attacks"]) == set(adversary.TITLES) == set(adversary.DOSES)
    before, after = report["attacks"]["user"]
    assert (before["dose"], after["dose"]) == (0, 1)
    assert after["text_tokens"] > before["text_tokens"]
    for method in ("multi", "full"):
        assert before["answers"][method]["true"]["value"] > 0.8
        assert before["answers"][method]["false"]["value"] == 0
        assert after["answers"][method]["false"]["value"] > after["answers"][method]["true"]["value"]
    assert before["answers"]["multi"]["true"]["questions"] == 12
    assert set(report["attacks"]["noise"][0]["answers"]["bm25"]) == {"true"}
    assert report["attacks"]["noise"][0]["answers"]["multi"]["true"]["questions"] == 24


def test_a_contradiction_tells_another_value_of_the_same_key() -> None:
    rng = random.Random(0)
    for fact in sample_dialogue(rng, facts=20, split="test").facts:
        other = contradiction(rng, fact)
        assert (other.subject, other.attribute) == (fact.subject, fact.attribute)
        assert other.value != fact.value
        assert other.value.lower() in other.tell.lower()
        assert fact.subject == USER or fact.subject in other.tell


def test_strangers_are_nobody_known() -> None:
    rng = random.Random(0)
    for _ in range(20):
        known = sample_people(rng, 2, "test")
        events, strangers = about_strangers(rng, known, facts=10, split="test")
        assert not {each.name for each in strangers} & {each.name for each in known}
        assert not {each.relation for each in strangers} & {each.relation for each in known}
        assert {event.fact.subject for event in events if event.fact} <= {each.name for each in strangers}


@pytest.mark.parametrize("facts", [1, 30, 48])
def test_a_dialogue_has_as_many_facts_as_wanted(facts: int) -> None:
    dialogue = many_facts(random.Random(facts), facts)
    assert len({(fact.subject, fact.attribute) for fact in dialogue.facts}) == facts
    assert len(dialogue.questions) == facts == len(dialogue.messages) // 2
    assert {fact.subject for fact in dialogue.facts} <= {USER, *(each.name for each in dialogue.people)}


def test_intervals_are_over_dialogues() -> None:
    together = common.rate([True] * 20 + [False] * 20, [row // 4 for row in range(40)])
    apart = common.rate([True] * 20 + [False] * 20, list(range(40)))
    assert together["value"] == apart["value"] == 0.5
    width = [found["interval"][1] - found["interval"][0] for found in (together, apart)]
    assert width[0] > 1.5 * width[1]


def test_a_plot_is_the_same_file_again(tmp_path: Path) -> None:
    def draw(report: dict[str, Any]) -> Any:
        figure, (axes, other) = common.panels(2, columns=1)
        common.line(axes, [0, 1], report["rates"], common.style("multi"))
        common.line(other, [0, 1], report["rates"], common.style("mine", 7))
        common.legend_below(figure, axes)
        return figure

    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in files:
        options = common.arguments(None).parse_args(["--plot", str(path)])
        common.finish({"rates": [common.rate([True, False], [0, 1])] * 2}, options, draw)
    assert b"<svg" in files[0].read_bytes()
    assert files[0].read_bytes() == files[1].read_bytes()
