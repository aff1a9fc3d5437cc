"""Parity where an engine of its own is needed: families, two workers, a compiled model, pages that run out, drafts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from beside import Beside, Turn, turns


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        ("mistral", {"heads": ("q", "o"), "release": True}),
        ("qwen2", {"states": 2, "coupled_gates": False}),
        ("qwen3", {"layers": "middle:2", "rowwise_gates": False}),
        ("smollm3", {"output_norm": True, "scale": "head"}),
    ],
)
def test_every_family(family: str, adapter: dict[str, Any], tmp_path: Path):
    beside = Beside(family, tmp_path, **adapter)
    try:
        for turn in beside.run(turns(3, 120, 17, 60, 1)):
            beside.assert_same(turn)
    finally:
        beside.close()


def test_write_addresses_of_two_tokens(tmp_path: Path):
    beside = Beside("llama", tmp_path, key_tokens=2, states=2)
    try:
        told = beside.run(turns(3, 120, 17))
        memories = [beside.assert_same(turn) for turn in told]
        (partly,) = turns(20, state=memories[0], tokens=1, write=bytes([1, 0] * 10))
        (asked,) = turns(20, state=memories[1], write=False)
        (more,) = turns(1, state=memories[2])
        beside.run([partly, asked, more])
        beside.assert_state(partly, beside.alone(partly)[1])
        beside.assert_same(asked)
        beside.assert_state(asked, memories[1])
        beside.assert_same(more)
    finally:
        beside.close()


@pytest.mark.parametrize("family", ["llama", "qwen3"])  # one head of keys and values that both have, and one for each
def test_two_workers_share_a_model_and_each_has_the_whole_memory(family: str, tmp_path: Path):
    beside = Beside(family, tmp_path, {"tensor_parallel_size": 2}, states=2)
    try:
        first = beside.run(turns(3, 120, 17, 60))
        memories = [beside.assert_same(turn) for turn in first]
        second = [Turn(turn.prompt[:9], memory) for turn, memory in zip(first, memories, strict=True)]
        for turn in beside.run(second):
            beside.assert_same(turn)
    finally:
        beside.close()


def test_a_compiled_model_remembers_prompts_of_any_length(tmp_path: Path):
    beside = Beside("llama", tmp_path, {"enforce_eager": False})
    try:
        first = beside.run(turns(3, 120, 17, 60, 1))
        memories = [beside.assert_same(turn) for turn in first]
        for turn in beside.run([Turn(turn.prompt[:9], memory) for turn, memory in zip(first, memories, strict=True)]):
            beside.assert_same(turn)
    finally:
        beside.close()


def test_a_backbone_of_half_precision_has_a_memory_of_its_own_precision(tmp_path: Path):
    beside = Beside("llama", tmp_path, {"dtype": "bfloat16"})
    try:
        (turn,) = beside.run(turns(40, seed=16, tokens=1))
        wanted = torch.stack([layer[0] for layer in beside.alone(turn)[1].states])
        first = wanted[0]  # of the layers below no error of the backbone has reached it
        assert (turn.after[0] - first).norm() < 0.01 * first.norm()
        assert (turn.after - wanted).norm() < 0.2 * wanted.norm()
    finally:
        beside.close()


def test_preempted_requests_begin_again_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted = []
    own = Scheduler._preempt_request
    monkeypatch.setattr(
        Scheduler, "_preempt_request", lambda self, r, *a, **k: preempted.append(r) or own(self, r, *a, **k)
    )
    pages = {"block_size": 32, "num_gpu_blocks_override": 9}
    beside = Beside("llama", tmp_path, pages)
    try:
        (told,) = beside.run(turns(20, seed=12))
        memory = beside.assert_same(told)
        many = turns(40, 50, 60, 45, seed=13, state=memory, tokens=40)
        for turn in beside.run(many):
            beside.assert_same(turn)
        assert preempted
    finally:
        beside.close()


def test_drafts_that_are_refused_leave_nothing(tmp_path: Path):
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    beside = Beside("llama", tmp_path, {"speculative_config": drafts})
    try:
        again = turns(6, seed=14)[0].prompt
        for turn in beside.run([Turn(again * 5), *turns(30, seed=15)]):
            beside.assert_same(turn)
    finally:
        beside.close()
