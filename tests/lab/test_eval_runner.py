"""Runs go on where they stopped, shards are one run, and a plan counts what a run would do."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_rows import IFEVAL, MAB, write_lines

from deltamem_lab.backbone import Backbone
from deltamem_lab.dryrun import estimate, estimate_published
from deltamem_lab.interface import Answer, Ask, Cost, Entry, Item, PublishedSize, as_text
from deltamem_lab.methods import MethodOptions
from deltamem_lab.methods.text import NoContext
from deltamem_lab.peak import PeakMemory
from deltamem_lab.records import read_run, shard_file
from deltamem_lab.runner import Job, Progress, run_jobs
from deltamem_lab.summary import reference_of, references, summarise
from deltamem_lab.tasks.ifeval import IFEval
from deltamem_lab.tasks.memoryagentbench import MemoryAgentBench
from deltamem_lab.tasks.world import WorldTask

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
    assert multi.versions.keys() >= {"deltamem", "torch", "transformers", "tokenizers"}
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


def test_a_method_is_compared_with_the_controls_of_its_own_adapter() -> None:
    """Known by their weights: what names no adapter is about the main one."""
    prints = {"none": "", "full": "", "multi": "m", "multi+context": "m", "token": "t", "empty": "m", "shuffled": "m"}
    prints |= {"shuffled:token": "t", "static": "sm", "static-token": "st", "hybrid": "m", "segment": "s"}
    every = ("none", "empty", "shuffled", "static", "full")
    assert references(prints) == every
    found = {name: tuple(reference_of(name, one, prints) for one in references(prints)) for name in prints}
    assert found["multi"] == found["multi+context"] == found["hybrid"] == every
    assert found["token"] == ("none", None, "shuffled:token", "static-token", "full")
    assert found["segment"] == ("none", None, None, None, "full")
    assert found["full"] == ("none", "empty", "shuffled", "static", None)
    assert found["static"] == found["static-token"] == ("none", None, None, None, "full")
    assert found["shuffled:token"] == ("none", None, None, "static-token", "full")
    # Of a single adapter a control without a name is its own, whatever else ran.
    assert reference_of("token", "static", {"token": "t", "static": "s"}) == "static"
    assert reference_of("token", "static", {"token": "t", "multi": "m", "static": "s"}) is None


def test_a_strangers_memory_is_of_the_same_kind(tmp_path: Path, backbone: Backbone) -> None:
    run_jobs([Job(WorldTask(seed=1, dialogues=2), "world", limit=4)], ["multi", "shuffled"], backbone, tmp_path)
    records = [record for record in read_run(tmp_path) if record.question == "0"]
    written = {(record.method, record.item): record.cost.write_tokens for record in records}
    for number, facts in enumerate((2, 4, 8, 16)):
        own, stranger = (written[method, f"1/0/{facts}-facts"] for method in ("multi", "shuffled"))
        assert abs(own - stranger) < 0.5 * own, number


def test_a_run_that_is_made_longer_is_one_that_was_as_long_at_once(
    tmp_path: Path, backbone: Backbone, jobs: list[Job]
) -> None:
    longer = [replace(jobs[0], limit=4)]
    for part in (jobs, longer):
        run_jobs(part, METHODS, backbone, tmp_path / "parts")
    run_jobs(longer, METHODS, backbone, tmp_path / "whole")
    assert outputs(tmp_path / "parts") == outputs(tmp_path / "whole")


def test_of_each_item_as_many_questions_are_asked_as_wanted(
    tmp_path: Path, backbone: Backbone, jobs: list[Job]
) -> None:
    (job,) = jobs
    few = replace(job, questions=2)
    assert run_jobs([few], ["none"], backbone, tmp_path) == 2 * 2
    assert {record.question for record in read_run(tmp_path)} == {"0", "1"}
    (planned,) = estimate([few], ["none"], backbone)
    assert (planned.items, planned.questions) == (2, 4)
    # A run that is made longer asks what is left.
    assert run_jobs(jobs, ["none"], backbone, tmp_path) == 3 + 5 - 4
    size = PublishedSize(items=10, questions=300, history=100, full=90, bare=10, new=5)
    (about,) = estimate_published("t", "p", size, 2, ["none"], backbone, most=4)
    assert (about.items, about.questions) == (2, 8)


class Talkative(WorldTask):
    """One question of the second item has more words than there are positions."""

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        for number, item in enumerate(super().items(protocol, limit)):
            first, *others = item.questions
            long = replace(first, text="and " * 2000) if number == 1 else first
            yield replace(item, questions=(long, *others))


def test_a_question_without_room_is_named_and_a_plan_goes_on(tmp_path: Path, backbone: Backbone) -> None:
    job = Job(Talkative(seed=1), "world", limit=3)
    told: list[str] = []
    (planned,) = estimate([job], ["none"], backbone, too_long=told.append)
    assert (planned.items, planned.questions) == (3, 3 + 4 + 9)
    (said,) = told
    assert said.startswith("world, item 1/0/4-facts, question 0: A question alone has 20")
    with pytest.raises(ValueError, match=r"world, item 1/0/4-facts, by none: question 0: A question alone has"):
        run_jobs([job], ["none"], backbone, tmp_path)


class Lonely(WorldTask):
    """A task of one item."""

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        yield from super().items(protocol, 1)


def test_a_control_needs_a_stranger(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="needs a second item"):
        run_jobs([Job(Lonely(), "world")], ["shuffled"], backbone, tmp_path)


class Parrot:
    """A method of one's own: it says what it was told last."""

    name = "parrot"
    stranger = False
    needs_history = True
    fingerprint = "green"

    def reset(self, seed: int) -> None:
        self.last = ""

    def observe(self, history: Sequence[Entry]) -> None:
        self.last = as_text(history[-1])

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [Answer(self.last, "", Cost(stored_bytes=len(self.last))) for _ in asks]


def test_a_method_of_ones_own_runs_beside_the_others(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    run_jobs(jobs, ["none", Parrot()], backbone, tmp_path)
    said = [record for record in read_run(tmp_path) if record.method == "parrot"]
    (first, *_) = jobs[0].task.items("world", 1)
    assert said[0].output == as_text(first.history[-1])
    assert {record.adapter for record in said} == {"green"}
    assert len(said) == 8


def test_runs_are_not_mixed(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    run_jobs(jobs, ["none", Parrot()], backbone, tmp_path)
    other = Parrot()
    other.fingerprint = "blue"
    with pytest.raises(ValueError, match="methods of parrot differ"):
        run_jobs(jobs, [other], backbone, tmp_path)

    changed = WorldTask(seed=1)
    changed.revision = "world/2"
    with pytest.raises(ValueError, match="data of world, world, seed 1 differ"):
        run_jobs([replace(jobs[0], task=changed)], ["none"], backbone, tmp_path)
    thinking = Backbone(backbone.model, backbone.tokenizer, name=backbone.name, template={"enable_thinking": True})
    with pytest.raises(ValueError, match="template differ"):
        run_jobs(jobs, ["none"], thinking, tmp_path)
    with pytest.raises(ValueError, match="options of turns differ"):
        run_jobs(jobs, ["none"], backbone, tmp_path, options=MethodOptions(turns=9))
    more = [*jobs, Job(WorldTask(seed=2), "world", seed=2, limit=1)]
    assert run_jobs(more, ["none", "multi", Parrot()], backbone, tmp_path) > 8


class Hoarder(NoContext):
    """A method that holds many bytes while it reads."""

    def keep(self, history: Sequence[Entry]) -> int:
        return int(torch.ones(self.hold).sum()) and 0


@pytest.mark.skipif(bool(PeakMemory(torch.device("cpu")).reason), reason="resident memory is not measured here")
def test_the_peak_is_each_methods_own(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    large, small = Hoarder("large", backbone), Hoarder("small", backbone)
    large.hold, small.hold = 60_000_000, 1
    run_jobs(jobs, [large, small], backbone, tmp_path)
    peaks = {record.method: record.cost.peak_bytes for record in read_run(tmp_path)}
    assert peaks["large"] > 230_000_000
    assert peaks["small"] < 120_000_000


def test_an_estimate_is_near_what_the_run_takes(tmp_path: Path, backbone: Backbone, jobs: list[Job]) -> None:
    names = ("none", "full", "multi")
    run_jobs(jobs, names, backbone, tmp_path)
    records = read_run(tmp_path)
    for plan in estimate(jobs, names, backbone):
        mine = [record for record in records if record.method == plan.method]
        assert (plan.items, plan.questions) == (2, len(mine))
        assert plan.prompt_tokens == pytest.approx(sum(r.cost.prompt_tokens for r in mine), rel=0.15)
        written = {record.item: record.cost.write_tokens for record in mine}
        assert plan.write_tokens == pytest.approx(sum(written.values()), rel=0.05)


def test_an_estimate_knows_what_a_task_cuts_and_where_there_is_no_history(tmp_path: Path, backbone: Backbone) -> None:
    facts = "\n".join(f"{number}. Ada lives in Oslo." for number in range(9000))
    row = {**MAB, "context": facts}
    task = MemoryAgentBench(write_lines(tmp_path / "mab.jsonl", [row]))
    wide = copy.copy(backbone)
    wide.model = copy.copy(backbone.model)
    wide.model.config = copy.deepcopy(backbone.model.config)
    wide.model.config.max_position_embeddings = 1_000_000
    # The release also looks at what the tokenizer says that it can read.
    wide.tokenizer = copy.copy(backbone.tokenizer)
    wide.tokenizer.model_max_length = 1_000_000
    plans = {plan.method: plan for plan in estimate([Job(task, "release")], ["full", "bm25", "multi"], wide)}
    # The release clips contexts at 120,000 characters; a memory reads them whole.
    clipped = backbone.count(facts[:40_000]) + backbone.count(facts[-80_000:])
    assert plans["full"].prompt_tokens == pytest.approx(2 * clipped, rel=0.05)
    assert plans["multi"].write_tokens == pytest.approx(backbone.count(facts), rel=0.05)
    assert plans["bm25"].prompt_tokens < 2 * 3000
    narrow = {plan.method: plan for plan in estimate([Job(task, "release")], ["full", "bm25"], backbone)}
    assert narrow["bm25"].prompt_tokens <= narrow["full"].prompt_tokens <= 2 * 512
    ifeval = IFEval(write_lines(tmp_path / "ifeval.jsonl", [IFEVAL]))
    assert [
        plan.method for plan in estimate([Job(ifeval, "release")], ["none", "full", "bm25", "multi+context"], wide)
    ] == [
        "none",
        "multi+context",
    ]


def test_a_published_size_stands_in_for_data_that_is_not_here(backbone: Backbone) -> None:
    size = PublishedSize(items=10, questions=40, history=100, full=120, bare=20, new=5)
    plans = {
        plan.method: plan
        for plan in estimate_published("locomo", "release", size, 5, ["none", "full", "multi", "bm25"], backbone)
    }
    assert all(plan.published and plan.items == 5 and plan.questions == 20 for plan in plans.values())
    assert [plans[name].prompt_tokens for name in ("none", "full", "multi", "bm25")] == [400, 2400, 400, 2400]
    assert plans["multi"].write_tokens == 500
    bare = replace(size, history=0)
    assert [p.method for p in estimate_published("gpqa", "release", bare, None, ["none", "full"], backbone)] == ["none"]


def test_a_plan_needs_a_chat_template(backbone: Backbone) -> None:
    plain = copy.deepcopy(backbone.tokenizer)
    plain.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        list(estimate([], ["none"], Backbone(backbone.model, plain)))
