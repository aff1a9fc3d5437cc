"""Training learns, resumes to the same numbers, and stops cleanly."""

import os
import signal
from pathlib import Path

import pytest
import torch
from pairs import pair_batch, small_model
from transformers import Qwen3ForCausalLM

from deltamem import attached
from deltamem.train import EpisodeBatch, Trainer, TrainingPlan, episode_loss


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return small_model()


PLAN = TrainingPlan(steps=12, log_every=4, evaluate_every=6, save_every=5)


def adapter(model: Qwen3ForCausalLM) -> list[torch.Tensor]:
    return [p.detach().clone() for memory in attached(model).memories() for p in memory.parameters()]


def quiet(line: str) -> None:
    pass


def test_training_lowers_the_loss_and_leaves_the_backbone_alone() -> None:
    model = small_model(init_gain=0.5)
    backbone = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = sum(episode_loss(model, pair_batch(1000 + i)).loss.item() for i in range(4))
    assert Trainer(model, pair_batch, TrainingPlan(steps=60, peak_rate=1e-2), log=quiet).run()
    after = sum(episode_loss(model, pair_batch(1000 + i)).loss.item() for i in range(4))
    assert after < 0.9 * before
    assert all(torch.equal(p, backbone[name]) for name, p in model.named_parameters() if name in backbone)


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = small_model()
    expected = Trainer(whole, pair_batch, PLAN, log=quiet)
    expected.run()

    checkpoint = tmp_path / "runs" / "a.pt"

    def stop_at_seven(step: int) -> EpisodeBatch:
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return pair_batch(step)

    first = Trainer(small_model(), stop_at_seven, PLAN, checkpoint=checkpoint, log=quiet)
    assert not first.run()
    assert first.step == 8
    torch.manual_seed(99)
    model = small_model()
    second = Trainer(model, pair_batch, PLAN, checkpoint=checkpoint, log=quiet)
    assert second.step == 8
    assert second.run()
    assert second.losses == pytest.approx(expected.losses, rel=1e-6)
    torch.testing.assert_close(adapter(model), adapter(whole))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def interrupted(step: int) -> EpisodeBatch:
        if step == 2:
            os.kill(os.getpid(), number)
        return pair_batch(step)

    trainer = Trainer(small_model(), interrupted, PLAN, checkpoint=tmp_path / "a.pt", log=quiet)
    assert not trainer.run()
    assert trainer.step == 3
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pt"]
    assert signal.getsignal(number) == before


def test_progress_lines_tell_loss_and_held_out_recall(model: Qwen3ForCausalLM) -> None:
    lines: list[str] = []
    Trainer(model, pair_batch, PLAN, evaluate=lambda: 0.25, log=lines.append).run()
    assert [line.split("  ")[0] for line in lines] == ["step 4/12", "step 6", "step 8/12", "step 12/12", "step 12"]
    assert "held-out recall 0.250" in lines[1]


def test_a_checkpoint_of_a_plan_of_another_length_is_refused(tmp_path: Path) -> None:
    Trainer(small_model(), pair_batch, PLAN, checkpoint=tmp_path / "a.pt", log=quiet).save()
    with pytest.raises(ValueError, match="a run of 12 steps, not 20"):
        Trainer(small_model(), pair_batch, TrainingPlan(steps=20), checkpoint=tmp_path / "a.pt")
