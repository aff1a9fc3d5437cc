"""Curves in a report: the score against what comes with the questions, and what trainings logged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_eval_records import RECORD, write

from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import as_messages
from deltamem_lab.notes import add_notes
from deltamem_lab.records import Record, shard_file
from deltamem_lab.report import write_report
from deltamem_lab.report.blocks import Chart, Table
from deltamem_lab.report.curves import bins, curve, curves
from deltamem_lab.report.learning import learning, read_training
from deltamem_lab.tasks.world import AGO, FACTS, WorldTask


def fading() -> list[Record]:
    """A memory that has what is at most 400 tokens old, a text that has everything, and a control."""
    base = replace(RECORD, gold=("Oslo.",), model="embedded")
    made = []
    for number in range(40):
        axes = {AGO: 20.0 * number + 10}
        scores = {"multi": float(axes[AGO] <= 400), "full": 1.0, "shuffled": 0.0}
        for method, score in scores.items():
            made.append(replace(base, item=f"0/{number}", method=method, axes=axes, scores={"exact": score}))
    return made


def test_ranges_part_the_values_evenly() -> None:
    assert bins([2, 4, 4, 8, 16, 2]) == [(2, 2), (4, 4), (8, 8), (16, 16)]
    values = [float(value) for value in range(100)]
    parts = bins(values)
    assert len(parts) == 6
    assert (parts[0][0], parts[-1][1]) == (0, 99)
    counts = [sum(low <= value <= high for value in values) for low, high in parts]
    assert sum(counts) == 100
    assert max(counts) - min(counts) <= 2
    lumped = bins([0.0] * 90 + values)
    assert all(low <= high for low, high in lumped)
    assert sum(sum(low <= value <= high for value in [0.0] * 90 + values) for low, high in lumped) == 190


def test_a_curve_falls_where_the_memory_ends() -> None:
    found = [record for record in fading() if record.method == "multi"]
    points = curve(found, AGO, [(10, 390), (410, 800), (900, 1000)])
    assert list(points) == [(10, 390), (410, 800)]
    (early, kept), (late, lost) = points.values()
    assert (early, late) == (200, 600)
    assert (kept.value, lost.value) == (1, 0)


def test_forgetting_is_drawn_and_told_without_controls() -> None:
    _, chart, table = curves(fading(), ["multi", "full", "shuffled"])
    assert isinstance(chart, Chart)
    assert isinstance(table, Table)
    assert "full context" in chart.caption
    assert chart.svg.count("opacity: 0.18") == 2
    assert [row[0] for row in table.rows] == ["multi", "full"]
    assert (table.rows[0][1], table.rows[0][-1]) == ("100.0", "0.0")
    assert curves([replace(record, axes={}) for record in fading()], ["multi"]) == []


def test_the_world_tells_how_long_ago_a_fact_was(backbone: Backbone) -> None:
    items = list(WorldTask().items("world", 6))
    for item in items:
        *told, unknown = item.questions
        assert unknown.axes == {}
        assert all((FACTS in question.axes) == (item.source == f"{len(told)} facts") for question in told)
        messages = as_messages(item.history)
        for question in told[:3]:
            value = question.answers[0].removesuffix(".")
            tells = [n for n, said in enumerate(messages) if said["role"] == "user" and value in said["content"]]
            after = [backbone.length(messages[n:]) - backbone.length(messages[n : n + 1]) for n in tells]
            assert question.axes[AGO] in after
    assert min(question.axes[AGO] for question in items[5].questions[:-1]) > 450


def test_a_training_is_drawn_from_what_it_logged(tmp_path: Path) -> None:
    adapter, lora = tmp_path / "adapter", tmp_path / "lora"
    for folder in (adapter, lora):
        folder.mkdir()
    logged = [
        {"step": 10, "loss": 2.0, "recall": 0.1},
        {"step": 10, "eval_own_loss": 1.5, "eval_static_loss": 1.8, "eval_recall": 0.25},
        {"step": 20, "loss": 1.0, "recall": 0.5},
    ]
    (adapter / "history.json").write_text(json.dumps(logged), "utf-8")
    (lora / "training.json").write_text(json.dumps({"losses": [3.0, 1.0] * 100}), "utf-8")
    found = [read_training(adapter), read_training(lora)]
    assert found[0].loss["held out: static control"] == [(10, 1.8)]
    assert found[0].recall == {"training": [(10, 0.1), (20, 0.5)], "held out": [(10, 0.25)]}
    assert [value for _, value in found[1].loss["training"]] == [2.0] * 50
    assert found[1].loss["training"][-1][0] == 200
    *_, chart, table = learning(found)
    assert isinstance(chart, Chart)
    assert isinstance(table, Table)
    assert "adapter: recall" in chart.svg
    assert ["adapter", "loss, training", "2.000", "1.000", "20"] in table.rows
    (lora / "training.json").write_text("[1", "utf-8")
    with pytest.raises(ValueError, match="is not a training log"):
        read_training(lora)


def test_a_report_has_trainings_beside_runs_and_what_was_left_out(tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    write(shard_file(run, 0, 1), *fading())
    add_notes(run, "deltamem eval", {"llmlingua2": "no compressor was given", "multi": "ran after all"}, ("full",))
    for folder in (run / "trained" / "mine", alone):
        folder.mkdir(parents=True)
        (folder / "training.json").write_text(json.dumps({"losses": [2.0, 1.0]}), "utf-8")
    page, text = (path.read_text("utf-8") for path in write_report([run, alone], tmp_path / "report"))
    assert "mine: loss" in page
    assert "alone: loss" in page
    assert "not run: no compressor was given" in page
    assert "ran after all" not in page
    assert "prefers-color-scheme: dark" in page
    assert "| mine |" in text
    write_report([alone], tmp_path / "only")
    with pytest.raises(FileNotFoundError, match="holds no records"):
        write_report([tmp_path / "report"], tmp_path / "none")
