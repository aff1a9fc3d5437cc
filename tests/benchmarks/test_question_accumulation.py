"""The question about updates and sums: a small sweep, trained, measured and read again."""

import json
from pathlib import Path

import pytest

from deltamem.demo.world import Dialogue
from deltamem_lab.sweep.plan import load_sweep
from questions import accumulation


def test_the_rules_differ_in_rule_and_gates_alone_and_share_the_sweeps_runs() -> None:
    whole = {point.name: point.recipe for point in load_sweep(accumulation.SWEEP).points}
    own = load_sweep(accumulation.SWEEP, [f"sweep.axes={json.dumps(accumulation.axes())}"])
    assert {(place.axis, place.label) for point in own.points for place in point.places} == set(accumulation.RULES)
    assert len({point.recipe.adapter for point in own.points}) == len(own.points) == len(accumulation.RULES)
    adapters = [point.recipe.adapter for point in own.points]
    assert {adapter.update_rule for adapter in adapters} == {"no_lambda", "standard", "hebbian", "accumulate"}
    assert {adapter.gates for adapter in adapters} == {"learned", "fixed"}
    assert len({(adapter.rank, adapter.states, adapter.heads, adapter.init_gain) for adapter in adapters}) == 1
    shared = [point for point in own.points if point.name in whole]
    assert len(shared) == 5
    assert all(whole[point.name] == point.recipe for point in shared)


def test_corrected_facts_are_asked_for_both_values() -> None:
    dialogues: list[Dialogue] = accumulation.held_out(4, 2, 5)
    new, old = (accumulation.replaced(dialogues, old=old) for old in (False, True))
    assert len(new) == len(old) == 10
    for one, other in zip(new, old, strict=True):
        assert (one.row, one.ask) == (other.row, other.ask)
        assert one.answer != other.answer
        said = [message.text for message in dialogues[one.row].messages]
        told = [[answer[:-1] in text for text in said].index(True) for answer in (other.answer, one.answer)]
        assert told[0] < told[1]


def test_a_small_sweep_is_trained_once_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {
        place: accumulation.RULES[place] for place in (("adapter.update_rule", "no_lambda"), ("fixed", "low hebbian"))
    }
    monkeypatch.setattr(accumulation, "RULES", kept)
    changes = [
        "schedule.steps=1",
        "data.options.steps=1",
        "data.options.episodes=2",
        "evaluation.data.options.dialogues=2",
        f"output.folder={tmp_path / 'runs'}",
        "evaluation.further={}",
        "sweep.seeds=[0]",
    ]
    given = [
        "--questions",
        "8",
        "--json",
        str(tmp_path / "found.json"),
        "--plot",
        str(tmp_path / "found.png"),
        *changes,
    ]
    assert accumulation.main(given) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert list(report["rules"]) == ["delta rule", "sum that fades, gates fixed low"]
    for found in report["rules"].values():
        assert found["seeds"] == 1
        assert set(found["recall"]) == {"1", "2", "4", "8"}
        assert found["corrected"]["new"]["questions"] == 8
    capsys.readouterr()
    assert accumulation.main(given) == 0
    assert "2 runs, 2 of them finished before" in capsys.readouterr().err


def test_a_wrong_change_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accumulation.main(["adapter.ranc=4"])
    assert "did you mean rank?" in capsys.readouterr().err
