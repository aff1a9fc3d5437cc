"""Whole runs: through the command line, stopped and resumed, with a control, and in two processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy import backbone, recipe
from transformers.utils import logging

import deltamem
from deltamem.cli.main import main
from deltamem.train.recipefile import load_recipe, parse_recipe
from deltamem.train.run import run

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes"
HELD_OUT = {"data": {"source": "toy:episodes", "options": {"count": 12, "seed": 9}}}


def written(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def losses(folder: Path, name: str = "loss") -> list[float]:
    history = json.loads((folder / "history.json").read_text())
    return [entry[name] for entry in history if name in entry]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter.safetensors")


def command(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}


def test_the_command_trains_measures_and_writes_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    path = written(tmp_path / "a.yaml", recipe(folder, evaluation={**HELD_OUT, "every": 4, "batch": 5}))
    logging.enable_progress_bar()
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path), "schedule.steps=12", "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    told = json.loads(out)
    assert (told["steps"], told["finished"]) == (12, True)
    assert "step 12/12  loss" in err
    assert not logging.is_progress_bar_enabled(), "transformers draws bars where there is no terminal"
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["measured"] == told["measured"]
    for name in ("nothing_loss", "own_loss", "other_loss", "full_loss", "recall", "gate_layer_1"):
        assert name in numbers["measured"]
    card = (folder / "README.md").read_text("utf-8")
    assert "share of the gap" in card
    assert "toy:backbone" in card
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    model, _ = backbone()
    deltamem.load_adapter(model, folder)
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert "checkpoint-12" in checkpoints
    # A checkpoint is an adapter, and holds nothing of the backbone.
    deltamem.load_adapter(model, folder / "checkpoint-12", "last")
    assert not list(folder.glob(".checkpoint*"))


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    values = recipe(tmp_path / "run", schedule={"steps": 2})
    run(parse_recipe(values))
    with pytest.raises(ValueError, match=r"holds a run already.*--resume"):
        run(parse_recipe(values))
    with pytest.raises(ValueError, match=r"another recipe \(different: adapter, seed\)"):
        run(parse_recipe(recipe(tmp_path / "run", schedule={"steps": 2}, seed=3, adapter={"rank": 2})), resume=True)
    with pytest.raises(ValueError, match="no run to resume"):
        run(parse_recipe(recipe(tmp_path / "other")), resume=True)


def test_a_run_is_not_gone_on_with_after_its_data_was_replaced(tmp_path: Path) -> None:
    source = tmp_path / "seed"
    source.write_text("0")
    values = recipe(tmp_path / "run", schedule={"steps": 4})
    values["data"] = {"source": "toy:filed", "options": {"path": str(source)}}
    run(parse_recipe(values))
    source.write_text("1")
    with pytest.raises(ValueError, match=r"data of the run in .* has changed since it started .*\(other lines: data\)"):
        run(parse_recipe(values), resume=True)
    source.write_text("0")
    assert run(parse_recipe(values), resume=True).steps == 4


# Every update is logged, or the stop lies between two that are.
@pytest.mark.parametrize("every", [1, 5])
def test_a_resumed_run_gives_the_same_losses_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    # Five updates an epoch, so that the stop lies inside the second epoch; micro-batches, dropped-in views.
    sections: dict[str, Any] = {
        "data": {"options": {"count": 40}},
        "schedule": {"steps": 12, "batch": 8, "micro_batch": 4},
        "objective": {"sparsity": 0.01, "no_memory": 0.3},
        "logging": {"every": every},
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(parse_recipe(recipe(whole, **sections)))

    from deltamem.train.hf import EpisodeTrainer

    stock = EpisodeTrainer.compute_loss

    def interrupted(self: EpisodeTrainer, *arguments: Any, **keywords: Any) -> Any:
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.setattr(EpisodeTrainer, "compute_loss", stock)
        return stock(self, *arguments, **keywords)

    monkeypatch.setattr(EpisodeTrainer, "compute_loss", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    stopped = run(parse_recipe(recipe(parts, **sections)))
    assert (stopped.steps, stopped.signal) == (7, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (parts / "checkpoint-7").is_dir()
    assert not (parts / "adapter.safetensors").exists()
    progress = parts / "checkpoint-7" / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_text("utf-8")) | {"seconds": 1000.0}), "utf-8")
    torch.manual_seed(123)
    finished = run(parse_recipe(recipe(parts, **sections)), resume=True)
    assert (finished.steps, finished.signal) == (12, 0)
    assert json.loads((parts / "metrics.json").read_text("utf-8"))["seconds"] > 1000
    assert len(losses(whole)) == 12 // every
    for name in ("loss", "recall", "loss_sparsity"):
        assert losses(parts, name) == losses(whole, name)
    torch.testing.assert_close(adapter(parts), adapter(whole), rtol=0, atol=0)


def test_a_terminated_process_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    path = written(tmp_path / "a.yaml", recipe(folder, schedule={"steps": 100_000}))
    process = subprocess.Popen(
        command("-m", "deltamem", "train", path),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=800)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"deltamem train {folder / 'recipe.yaml'} --resume" in out
    steps = int(out.split("after step ")[1].split(",")[0])
    assert (folder / f"checkpoint-{steps}" / "trainer_state.json").exists()


@pytest.mark.parametrize("needs_memory", [True, False])
def test_the_static_control_tells_memory_from_all_else(
    tmp_path: Path, needs_memory: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"count": 128, "needs_memory": needs_memory}
    evaluation = {
        "data": {"source": "toy:episodes", "options": {**options, "count": 32, "seed": 9}},
        "control": True,
        "batch": 32,
    }
    values = recipe(
        tmp_path,
        adapter={"rank": 4, "alpha": 16, "init_gain": 1.0, "heads": ["q", "k", "v", "o"]},
        data={"options": options},
        schedule={"steps": 80, "batch": 32, "micro_batch": 32, "warm_up": 0.05},
        optimiser={"learning_rate": 3e-2},
        logging={"every": 50},
        evaluation=evaluation,
        output={"save_every": 1000},
    )
    measured = run(parse_recipe(values)).measured
    assert measured is not None
    assert measured.static is not None
    static_gain, memory_gain = measured.nothing - measured.static, measured.static - measured.own
    # Either learns which answers there are; whose answer it is only a memory of the right history can tell.
    assert static_gain > 0.1
    assert memory_gain > 0.2 if needs_memory else abs(memory_gain) < 0.02
    assert (tmp_path / "control" / "checkpoint-80").is_dir()
    # The log says which of the two is trained, how fast, and how long it takes.
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("Failed to load")]
    titles = [place for place, line in enumerate(said) if line.startswith(("First the static control", "Training the"))]
    assert len(titles) == 2
    assert re.search(r"step 50/80  loss .* tokens/s  0:\d\d:\d\d left", said[titles[0] + 1])
    # The card has counts, and claims no share where a random backbone makes nothing of the text.
    card = (tmp_path / "README.md").read_text("utf-8")
    assert re.search(r"Recall: \d\.\d{3} \(\d\.\d\d–\d\.\d\d\), \d+ of 32 queries\.", card)
    assert "there is no gap" in card
    assert len(json.loads((tmp_path / "control" / "metrics.json").read_text())["static_losses"]) == 32


def launched(path: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "deltamem", "train", path)
    return subprocess.run(
        command(*launch, *arguments), env=environment(**more), capture_output=True, text=True, check=False
    )


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "ACCELERATE_USE_CPU": "true",
}


SPLIT: dict[str, Any] = {
    "schedule": {"steps": 6, "batch": 8, "micro_batch": 4},
    "evaluation": {**HELD_OUT, "batch": 5},
}


def assert_as_one(two: Path, one: Path) -> None:
    """Two processes came to the losses, gradients (their norm at every update), weights and measures of one."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert losses(two, "grad_norm") == pytest.approx(losses(one, "grad_norm"), rel=1e-3)
    torch.testing.assert_close(adapter(two), adapter(one), rtol=1e-3, atol=1e-4)
    found, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (two, one))
    assert found["processes"] == 2
    assert found["measured"] == pytest.approx(expected["measured"], rel=1e-3)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(parse_recipe(recipe(one, **SPLIT)))
    done = launched(written(tmp_path / "a.yaml", recipe(two, **SPLIT)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert_as_one(two, one)


def test_two_sharded_processes_train_and_go_on_as_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(parse_recipe(recipe(one, **SPLIT)))
    path = written(tmp_path / "a.yaml", recipe(two, **SPLIT))
    done = launched(path, **FSDP)
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(two / "checkpoint-6")
    again = launched(path, "--resume", **FSDP)
    assert again.returncode == 0, again.stderr[-3000:]
    assert_as_one(two, one)


SHRUNK = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def small_backbone(shape: dict[str, Any], vocabulary: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = shape.pop("model_type")
    if "head_dim" in shape:
        shape["head_dim"] = 8
    shape |= SHRUNK | {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config: Any = AutoConfig.for_model(kind, **shape)
    if kind == "gemma3_text":
        # The published model sees too; what is trained is the text model inside it.
        eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        places = {f"{name}_token_index": vocabulary - 1 - i for i, name in enumerate(("image", "boi", "eoi"))}
        vision = {**eyes, "image_size": 28, "patch_size": 14}
        config = AutoConfig.for_model(
            "gemma3", text_config=config.to_dict(), vision_config=vision, mm_tokens_per_image=4, **places
        )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


PAPERS = [
    f"{name}/{kind}" for name in ("qwen3-4b-instruct-2507", "qwen3-8b", "smollm3-3b") for kind in ("tsw", "ssw", "msw")
]


@pytest.mark.parametrize("name", [*PAPERS, "llama-3.2-3b", "gemma-3-4b", "small-gpu"])
def test_a_recipe_trains_its_architecture_made_small(tmp_path: Path, name: str) -> None:
    from deltamem.demo.tokenizer import build_tokenizer

    file, tokenizer = RECIPES / f"{name}.yaml", build_tokenizer()
    small_backbone(dict(load_recipe(file).backbone.shape or {}), len(tokenizer)).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    chats = tmp_path / "chats.jsonl"
    turns = [("user", "My name is Ada."), ("assistant", "Nice."), ("user", "Who am I?"), ("assistant", "Ada.")]
    line = json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})
    chats.write_text(f"{line}\n" * 12, "utf-8")
    found = load_recipe(
        file,
        [
            f"backbone.model={tmp_path / 'backbone'}",
            f"data.path={chats}",
            f"data.cache_dir={tmp_path / 'cache'}",
            f"output.folder={tmp_path / 'run'}",
            "schedule.batch=4",
            *(["evaluation={}"] if name == "small-gpu" else []),
        ],
    )
    outcome = run(found)
    assert outcome.steps == 3
    saved = json.loads((tmp_path / "run" / "deltamem_adapter.json").read_text())
    assert saved["config"]["states"] == found.adapter.states
    assert all(torch.isfinite(torch.tensor(loss)) for loss in losses(tmp_path / "run"))
