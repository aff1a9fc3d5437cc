"""The best checkpoint: chosen on one half of what is held out, reported on the other; patience; what stays on disk."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy import recipe

from deltamem.train.hf import EpisodeTrainer
from deltamem.train.loading import halves, load_backbone, load_data
from deltamem.train.recipe import Recipe
from deltamem.train.recipefile import parse_recipe
from deltamem.train.run import run

HERE = Path(__file__).parent
HELD_OUT = {"data": {"source": "toy:episodes", "options": {"count": 12, "seed": 9}}}


def overfitted(folder: Path, **evaluation: Any) -> Recipe:
    """Eight episodes, soon known by heart: held-out episodes get worse after a few updates."""
    return parse_recipe(
        recipe(
            folder,
            schedule={"steps": 60, "kind": "constant", "warm_up": 0},
            optimiser={"learning_rate": 3e-2},
            data={"options": {"count": 8}},
            logging={"every": 100},
            evaluation={**HELD_OUT, "every": 5, **evaluation},
            output={"keep": 1, "save_every": 1000},
        )
    )


def numbers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def evaluated(folder: Path) -> dict[int, float]:
    """The losses that a training was chosen by, by step, as its last checkpoint tells them."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["eval_own_loss"] for entry in history if "eval_own_loss" in entry}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM comes once, in the update after ``step``."""
    stock = EpisodeTrainer.compute_loss

    def interrupted(self: EpisodeTrainer, *arguments: Any, **keywords: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
            monkeypatch.setattr(EpisodeTrainer, "compute_loss", stock)
        return stock(self, *arguments, **keywords)

    monkeypatch.setattr(EpisodeTrainer, "compute_loss", interrupted)


def test_the_best_by_one_half_is_reported_on_the_other(tmp_path: Path) -> None:
    found = overfitted(tmp_path, patience=2)
    outcome = run(found)
    by_step = evaluated(tmp_path)
    best = numbers(tmp_path)["best_step"]
    assert best == min(by_step, key=lambda step: by_step[step])
    assert outcome.steps == best + 10
    whole, last = (load_file(place / "adapter.safetensors") for place in (tmp_path, tmp_path / f"checkpoint-{best}"))
    torch.testing.assert_close(whole, last, rtol=0, atol=0)
    # Its loss on the other half is not the one that it was chosen by.
    assert abs(numbers(tmp_path)["measured"]["own_loss"] - by_step[best]) > 1e-3


def test_the_control_is_chosen_as_the_adapter_is(tmp_path: Path) -> None:
    measured = run(overfitted(tmp_path, control=True, patience=2)).measured
    assert measured is not None
    control = numbers(tmp_path / "control")
    by_step = evaluated(tmp_path / "control")
    best = min(by_step, key=lambda step: by_step[step])
    assert control["best_step"] == best < control["steps"] == best + 10
    assert control["choosing_static_loss"] == pytest.approx(by_step[best], rel=1e-6)
    assert control["static_loss"] == measured.static != control["choosing_static_loss"]


def test_halves_share_no_text_and_have_strangers(tmp_path: Path) -> None:
    found = overfitted(tmp_path)
    held = load_data(found, load_backbone(found.backbone)[1], progress=False)[1]
    assert held is not None
    held.texts = [number // 3 for number in range(12)]  # type: ignore[attr-defined]
    first, second = (set(part.texts) for part in halves(held, 0))  # type: ignore[attr-defined]
    assert len(first) == len(second) == 2
    assert not first & second
    held.texts = [number // 4 for number in range(12)]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"these 12 cannot be halved .* leave evaluation.every out"):
        halves(held, 0)


def test_a_checkpoint_of_a_stop_stays_though_another_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 22)
    assert run(overfitted(tmp_path)).steps == 23
    kept = {path.name for path in tmp_path.glob("checkpoint-*")}
    by_step = evaluated(tmp_path)
    best = min(by_step, key=lambda step: by_step[step])
    assert best < 20
    assert kept == {f"checkpoint-{best}", "checkpoint-23"}


def test_patience_goes_on_counting_and_is_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(overfitted(tmp_path / "whole", patience=3))
    last_look = whole.steps - 5
    stop_at(monkeypatch, last_look + 1)
    stopped = run(overfitted(tmp_path / "parts", patience=3))
    assert (stopped.steps, stopped.signal) == (last_look + 2, signal.SIGTERM)
    finished = run(overfitted(tmp_path / "parts", patience=3), resume=True)
    assert (finished.steps, finished.measured) == (whole.steps, whole.measured)
    again = run(overfitted(tmp_path / "parts", patience=3), resume=True)
    assert (again.steps, again.measured) == (whole.steps, whole.measured)
    assert max(evaluated(tmp_path / "parts")) == whole.steps
    (tmp_path / "parts").rename(tmp_path / "moved")
    assert run(overfitted(tmp_path / "moved", patience=3), resume=True).measured == whole.measured


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_going_on_from_a_finished_run_only_measures_again(tmp_path: Path, precision: str) -> None:
    sections: dict[str, Any] = {
        "schedule": {"steps": 6},
        "evaluation": {**HELD_OUT, "control": True},
        "optimiser": {"precision": precision},
    }
    first = run(parse_recipe(recipe(tmp_path, **sections)))
    again = run(parse_recipe(recipe(tmp_path, **sections)), resume=True)
    assert (again.steps, again.signal) == (6, 0)
    assert again.measured == first.measured
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_numbers_of_another_run_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "metrics.json").write_text('{"static_loss": 0.1}')
    with pytest.raises(ValueError, match="holds a run already"):
        run(overfitted(tmp_path, control=True))


def test_a_terminal_gets_a_bar_and_the_lines_above_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path / "run", schedule={"steps": 3})))
    command = [sys.executable, "-m", "deltamem", "train", str(path)]
    above, below = pty.openpty()
    termios.tcsetwinsize(below, (24, 100))
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=below)
    os.close(below)
    told = b""
    while True:
        try:
            told += os.read(above, 4096)
        except OSError:  # a pseudo-terminal ends so
            break
    os.close(above)
    assert process.wait() == 0
    assert b"3/3 [" in told
    assert b"step 3/3  loss" in told
