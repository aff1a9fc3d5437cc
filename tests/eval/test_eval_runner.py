"""Runs go on where they stopped, shards are one run, and a plan counts what a run would do."""

from pathlib import Path

import pytest

from deltamem.demo.task import WorldTask
from deltamem.eval.backbone import Backbone
from deltamem.eval.records import read_run, shard_file
from deltamem.eval.runner import Job, Progress, estimate, run_jobs
from deltamem.eval.summary import references, summarise

METHODS = ("none", "multi", "shuffled")


@pytest.fixture
def jobs() -> list[Job]:
    return [Job(WorldTask(seed=1), "world", seed=1, limit=2)]


def outputs(folder: Path) -> dict[tuple[object, ...], str]:
    return {record.key: record.output for record in read_run(folder)}


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    seen: list[Progress] = []
    answered = run_jobs(jobs, METHODS, backbone, tmp_path, progress=seen.append)
    whole = outputs(tmp_path)
    assert answered == len(whole) == 3 * (3 + 5)
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (answered, answered, 0)

    path = shard_file(tmp_path, 0, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10]) + lines[10][:50])
    assert run_jobs(jobs, METHODS, backbone, tmp_path) == answered - 10
    assert outputs(tmp_path) == whole
    assert run_jobs(jobs, METHODS, backbone, tmp_path) == 0


def test_shards_make_the_same_run(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    run_jobs(jobs, METHODS, backbone, tmp_path / "whole")
    parts = [run_jobs(jobs, METHODS, backbone, tmp_path / "parts", shard=(part, 2)) for part in range(2)]
    assert all(parts)
    assert outputs(tmp_path / "parts") == outputs(tmp_path / "whole")


def test_records_say_what_was_asked_and_what_it_took(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    run_jobs(jobs, METHODS, backbone, tmp_path)
    records = {record.method: record for record in read_run(tmp_path)}
    multi, none = records["multi"], records["none"]
    assert multi.prompt_hash == none.prompt_hash
    assert multi.adapter
    assert not none.adapter
    assert multi.cost.write_tokens > 50 > none.cost.write_tokens == 0
    assert multi.versions.keys() == {"deltamem", "torch", "transformers"}
    assert multi.data_revision == "world/1/1"
    assert multi.main_metric in multi.scores


def test_summaries_hold_the_controls_apart(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    run_jobs(jobs, METHODS, backbone, tmp_path)
    (task,) = summarise(read_run(tmp_path))
    assert (task.items, task.questions, task.references) == (2, 8, ("none", "shuffled"))
    found = {method.method: method for method in task.methods}
    none, multi = found["none"], found["multi"]
    assert none.unknown is not None
    assert none.unknown.value == 0
    assert task.known == round(none.mean.value * 8)
    assert multi.differences["none"].interval.value == pytest.approx(multi.mean.value - none.mean.value)
    assert multi.averages["question"] == pytest.approx(multi.mean.value)
    assert multi.averages["category"] == pytest.approx(
        sum(one.value for one in multi.categories.values()) / len(multi.categories)
    )
    assert references(["none", "shuffled", "static", "bm25"]) == ("none", "static", "bm25")


def test_a_control_needs_a_stranger(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="needs a second item"):
        run_jobs([Job(WorldTask(), "world", limit=1)], ["shuffled"], backbone, tmp_path)


def test_an_estimate_is_near_what_the_run_takes(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    names = ("none", "full", "multi")
    run_jobs(jobs, names, backbone, tmp_path)
    records = read_run(tmp_path)
    for plan in estimate(jobs, names, backbone):
        mine = [record for record in records if record.method == plan.method]
        assert (plan.items, plan.questions) == (2, len(mine))
        assert plan.prompt_tokens == pytest.approx(sum(r.cost.prompt_tokens for r in mine), rel=0.6)
        written = {record.item: record.cost.write_tokens for record in mine}
        assert plan.write_tokens == pytest.approx(sum(written.values()), rel=0.6)
