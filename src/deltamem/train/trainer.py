"""The training loop: plain PyTorch, resumable to the same numbers, stopped cleanly by a signal."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.train.episodes import EpisodeBatch
from deltamem.train.objective import episode_loss


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How to train.

    Attributes:
        steps: updates in all.
        peak_rate: the highest learning rate of the one-cycle schedule.
        warm_up: the share of the steps in which the rate rises to it.
        weight_decay: of AdamW.
        clip: the largest gradient norm.
        log_every: steps between progress lines.
        evaluate_every: steps between held-out evaluations.
        save_every: steps between checkpoints.
    """

    steps: int = 4000
    peak_rate: float = 5e-3
    warm_up: float = 0.0125
    weight_decay: float = 0.0
    clip: float = 1.0
    log_every: int = 50
    evaluate_every: int = 500
    save_every: int = 200


class Trainer:
    """Trains the active adapter of a model.

    Args:
        model: a model that was attached to; only its active adapter is trained.
        batch_at: the batch of a step, from the step's number alone, so that a resumed run sees the same ones.
        plan: how to train.
        checkpoint: where to keep the run; an existing file there is resumed from.
        evaluate: held-out recall in [0, 1], for the progress lines.
        log: takes a progress line.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batch_at: Callable[[int], EpisodeBatch],
        plan: TrainingPlan,
        *,
        checkpoint: Path | None = None,
        evaluate: Callable[[], float] | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        self.model = model
        self.batch_at = batch_at
        self.plan = plan
        self.checkpoint = checkpoint
        self.evaluate = evaluate
        self.log = log
        self.memories = torch.nn.ModuleList(attached(model).memories())
        self.optimizer = AdamW(self.memories.parameters(), lr=plan.peak_rate, weight_decay=plan.weight_decay)
        self.schedule = OneCycleLR(
            self.optimizer, plan.peak_rate, total_steps=plan.steps, pct_start=plan.warm_up, cycle_momentum=False
        )
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self._stop = False
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def run(self) -> bool:
        """Trains until the plan is done (true) or SIGINT or SIGTERM asks to stop (false); both leave a checkpoint."""
        start = time.monotonic() - self.seconds
        recalls: list[float] = []
        with self._signals():
            while self.step < self.plan.steps and not self._stop:
                recalls.append(self._update())
                self.seconds = time.monotonic() - start
                if self._due(self.plan.log_every):
                    self.log(self._progress(recalls))
                    recalls.clear()
                if self.evaluate is not None and self._due(self.plan.evaluate_every):
                    self.log(f"step {self.step}  held-out recall {self.evaluate():.3f}")
                if self.step % self.plan.save_every == 0:
                    self.save()
        self.save()
        return not self._stop

    def save(self) -> None:
        """Writes the checkpoint, atomically; without a path does nothing."""
        if self.checkpoint is None:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_name(f"{self.checkpoint.name}.{os.getpid()}.tmp")
        torch.save(
            {
                "memories": self.memories.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "random": torch.get_rng_state(),
                "steps": self.plan.steps,
                "step": self.step,
                "seconds": self.seconds,
                "losses": torch.tensor(self.losses),
            },
            temporary,
        )
        os.replace(temporary, self.checkpoint)

    def _resume(self, checkpoint: Path) -> None:
        saved = torch.load(checkpoint, weights_only=True)
        if saved["steps"] != self.plan.steps:
            raise ValueError(
                f"{checkpoint} belongs to a run of {saved['steps']} steps, not {self.plan.steps}; its learning rates "
                "would not fit. Ask for as many steps, or choose another checkpoint."
            )
        self.memories.load_state_dict(saved["memories"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["random"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.losses = saved["losses"].tolist()

    def _update(self) -> float:
        result = episode_loss(self.model, self.batch_at(self.step))
        self.optimizer.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.memories.parameters(), self.plan.clip)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.losses.append(result.loss.item())
        return result.recall

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps

    def _progress(self, recalls: list[float]) -> str:
        recent = self.losses[-len(recalls) :]
        return (
            f"step {self.step}/{self.plan.steps}  loss {sum(recent) / len(recent):.3f}  "
            f"recall {sum(recalls) / len(recalls):.3f}  {self.seconds:.0f} s"
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
