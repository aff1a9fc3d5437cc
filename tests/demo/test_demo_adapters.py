"""The shipped adapters: small, loadable, and as good as they are said to be; and the command that trains one."""

import dataclasses
import json
import os
import random
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from deltamem import attached, load_adapter, memory_cache
from deltamem.chat import encode_chat
from deltamem.demo.adapters import COURSES, TRAINING_FILE, Course, Stage, Which, load_demo_adapter, train
from deltamem.demo.backbone import load_backbone
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.world import Utterance, sample_dialogue


@pytest.fixture(scope="module")
def demo() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    model, tokenizer = load_backbone()
    for which in COURSES:
        load_demo_adapter(model, which)
    return model, tokenizer


@pytest.mark.parametrize("which", COURSES)
def test_an_adapter_is_under_a_megabyte_and_of_its_recipe(
    demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast], which: Which
) -> None:
    folder = files("deltamem.demo").joinpath("assets", "adapters", which)
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 1_000_000
    assert attached(demo[0]).configs[which] == COURSES[which].config
    assert COURSES[which].config.rank == 8


@pytest.mark.parametrize(("which", "least"), [("token", 0.82), ("segment", 0.8), ("multi", 0.92)])
def test_an_adapter_recalls_four_facts(
    demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast], which: Which, least: float
) -> None:
    rng, reader = random.Random("held-out recall/1"), Reader(*demo)
    sampled = [sample_dialogue(rng, facts=4, split="test") for _ in range(32)]
    asked = [Asked(row, q.ask, q.answer) for row, dialogue in enumerate(sampled) for q in dialogue.questions]
    state = reader.remember(which, [dialogue.messages for dialogue in sampled])
    assert sum(reader.recall(which, state, asked)) >= least * len(asked)


def test_the_grade_is_what_greedy_generation_says(demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]) -> None:
    model, tokenizer = demo
    attached(model).activate("multi")
    reader = Reader(model, tokenizer)
    told = [Utterance("user", "I live in Lisbon."), Utterance("assistant", "Noted.")]
    state = reader.remember("multi", [told])
    ask = "Where do I live?"
    prompt = encode_chat(tokenizer, [{"role": "user", "content": ask}], add_generation_prompt=True).input_ids
    cache = memory_cache(model, state, write=False)
    output = model.generate(prompt, past_key_values=cache, max_new_tokens=12, do_sample=False)
    said = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    graded = reader.recall("multi", state, [Asked(0, ask, said), Asked(0, ask, "Oslo.")])
    assert graded == [True, said == "Oslo."]


def test_an_unknown_adapter_is_refused(demo: tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]) -> None:
    with pytest.raises(ValueError, match="no demo adapter 'large'; there are: token, segment, multi"):
        load_demo_adapter(demo[0], "large")  # type: ignore[arg-type]


def short(which: Which, *rates: float) -> Course:
    """A course of two updates a stage, on few and small dialogues."""
    first = COURSES[which].stages[0]
    mix = dataclasses.replace(first.mix, max_facts=2, episodes=4)
    return Course(COURSES[which].config, tuple(Stage(mix, steps=2, rate=rate) for rate in rates), held_out=2)


@pytest.mark.parametrize("control", [False, True])
def test_training_writes_an_adapter_that_loads(tmp_path: Path, control: bool) -> None:
    course = short("segment", 5e-3)
    assert train(course, tmp_path / "run", tmp_path / "segment", command="none", control=control)
    model, _ = load_backbone()
    load_adapter(model, tmp_path / "segment")
    assert attached(model).config == course.config
    weights = attached(model).memories()[0].projection
    assert torch.equal(weights, weights.to(torch.bfloat16).float())
    stages = json.loads((tmp_path / "segment" / TRAINING_FILE).read_text())["stages"]
    assert [stage["steps"] for stage in stages] == [2]


def test_a_stage_goes_on_from_the_one_before_and_a_finished_one_is_not_run_again(tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "token"
    assert train(short("token", 5e-3), run, output, command="none")
    first = load_file(output / "adapter.safetensors")
    done = (run / "stage-1" / "metrics.json").stat().st_mtime_ns
    # Of several processes one may find what another has only just begun to fill.
    (run / "stage-2").mkdir()
    assert train(short("token", 5e-3, 1e-9), run, output, command="none")
    assert (run / "stage-1" / "metrics.json").stat().st_mtime_ns == done
    second = load_file(output / "adapter.safetensors")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-2, atol=1e-4)
    assert len(json.loads((output / TRAINING_FILE).read_text())["stages"]) == 2


TWO_STAGES = """
from pathlib import Path
from deltamem.demo.adapters import train
from test_demo_adapters import short
assert train(short("token", 5e-3, 5e-3), Path("run"), Path("token"), command="two processes")
"""


def test_two_processes_train_one_adapter(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO_STAGES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "two.py"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    told = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(launch, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "token" / TRAINING_FILE).read_text())
    assert [stage["steps"] for stage in record["stages"]] == [2, 2]
    assert record["processes"] == 2
    metrics = json.loads((tmp_path / "run" / "stage-2" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["processes"]) == (2, 2)
    model, _ = load_backbone()
    load_adapter(model, tmp_path / "token")
