"""transformers' ``Trainer`` for adapters: DDP, FSDP2, DeepSpeed, precision and accumulation are accelerate's.

It departs from the stock one in four things. A batch is an :class:`EpisodeBatch`; a micro-batch counts by its trained
tokens, so that accumulation and processes give the loss of one large batch; checkpoints hold the adapter alone, in the
format of a finished one, and appear whole or not at all; and an evaluation is that of :mod:`deltamem.train.measure`.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, save_fsdp_optimizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from deltamem.formats.adapter import write_adapter
from deltamem.train.checkpoints import PROGRESS_FILE
from deltamem.train.data.batches import LengthGroupedBatches
from deltamem.train.episodes import EpisodeBatch, collate
from deltamem.train.measure import Condition, Measured, Tally, add, mean_loss, summarise
from deltamem.train.module import EpisodeModule, gather_adapter, trained_weight
from deltamem.train.strangers import Strangers

CHECKPOINT = "checkpoint-"
STATE_FILE = "trainer_state.json"
_SCHEDULER_FILE = "scheduler.pt"


@dataclass
class HeldOut:
    """Held-out episodes in batches, and what is constant about them.

    Attributes:
        own: the episodes.
        other: the same with strangers' histories, if those are measured too.
        static: the static control's loss on them, once it has been measured.
        static_losses: the same for each query.
        bounds: the sums without memory, without and with the text, once they have been measured.
    """

    own: list[EpisodeBatch]
    other: list[EpisodeBatch]
    static: float | None = None
    static_losses: list[float] | None = None
    bounds: tuple[Tally, Tally] | None = None

    @classmethod
    def of(cls, dataset: Dataset[Any], batch_size: int, pad_id: int) -> "HeldOut":
        """A dataset's episodes in batches of ``batch_size``."""
        own, other = (list(in_batches(kind, batch_size, pad_id)) for kind in (dataset, Strangers(dataset)))
        return cls(own, other)

    def of_strangers(self) -> "HeldOut":
        """The same as a static control meets them: with strangers' histories alone."""
        return HeldOut(self.other, [])


class EpisodeTrainer(Trainer):
    """Trains the active adapter of the model in ``module``.

    Args:
        module: what is trained.
        args: transformers' arguments.
        dataset: of :class:`Episode` or of ready :class:`EpisodeBatch`.
        pad_id: the padding token.
        held_out: what an evaluation on the way measures.
        callbacks: further callbacks.
        started: when the run began, on the monotonic clock, as if it had never been stopped; now by default.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        module: EpisodeModule,
        args: TrainingArguments,
        dataset: Dataset[Any],
        *,
        pad_id: int,
        held_out: HeldOut | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        started: float | None = None,
    ) -> None:
        self.started = time.monotonic() if started is None else started
        self.pad_id = pad_id
        self.held_out = held_out
        self._seen: list[dict[str, float]] = []
        self._last: float | None = None
        # The stock trainer only asks whether there is an evaluation set.
        evaluated = held_out.own if held_out else None
        super().__init__(
            module,
            args,
            data_collator=self._collate,
            train_dataset=dataset,
            eval_dataset=evaluated,
            callbacks=list(callbacks),
        )

    def _collate(self, items: list[Any]) -> dict[str, EpisodeBatch]:
        return {"batch": as_batch(items, self.pad_id)}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Episodes in an order that seed and epoch fix, by length within an update; ready batches as they are."""
        dataset: Any = self.train_dataset
        loader: DataLoader[Any]
        if isinstance(dataset[0], EpisodeBatch):
            loader = DataLoader(dataset, batch_size=1, sampler=SequentialSampler(dataset), collate_fn=self._collate)
        else:
            lengths = getattr(dataset, "lengths", None) or [_length(dataset[i]) for i in range(len(dataset))]
            together = self.args.world_size * self.args.gradient_accumulation_steps
            size, seed = self.args.per_device_train_batch_size, self.args.seed
            batches = LengthGroupedBatches(lengths, size, together=together, seed=seed)
            loader = DataLoader(dataset, batch_sampler=batches, collate_fn=self._collate)
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"batch": inputs["batch"].on(self.args.device)}

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, EpisodeBatch]], device: torch.device) -> Tensor:
        """The trained weight of all micro-batches of an update, over all processes."""
        total = torch.tensor(sum(trained_weight(sample["batch"]) for sample in batch_samples), device=device)
        return self.accelerator.gather(total).sum()  # type: ignore[no-any-return]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective, weighed by the micro-batch's share of the update's trained tokens."""
        result = model(inputs["batch"], self.state.global_step)
        now = time.monotonic()
        pace = {"tokens": float(inputs["batch"].tokens), "seconds": now - self._last} if self._last is not None else {}
        self._last = now
        parts = {f"loss_{name}": v.item() for name, v in result.parts.items()}
        self._seen.append({"recall": result.recall, **parts, **pace})
        loss = result.loss
        if num_items_in_batch is not None:
            # The processes' gradients are averaged, hence their number.
            processes = self.accelerator.num_processes
            loss = loss * (trained_weight(inputs["batch"]) * processes / num_items_in_batch)
        return (loss, result) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds recall and the objective's parts to the training loss."""
        if "loss" in logs and self._seen:
            every = self._everyones_seen()
            seconds = sum(seen.pop("seconds", 0.0) for seen in every) / self.args.world_size
            tokens = sum(seen.pop("tokens", 0.0) for seen in every)
            logs |= {name: sum(seen[name] for seen in every) / len(every) for name in every[0]}
            if seconds:
                logs["tokens_per_second"] = tokens / seconds
            self._seen = []
        super().log(logs, start_time)

    def _everyones_seen(self) -> list[dict[str, float]]:
        return gather_object(self._seen) if self.args.world_size > 1 else self._seen

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measures the held-out episodes."""
        assert self.held_out is not None
        self._last = None  # an evaluation is not training
        metrics = {f"{metric_key_prefix}_{name}": v for name, v in self.measure(self.held_out).metrics().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self, held: HeldOut) -> Measured:
        """What the adapter as it is now is worth on held-out episodes."""
        if held.bounds is None:
            held.bounds = (self.tally(held.own, Condition.NOTHING), self.tally(held.own, Condition.FULL))
        nothing, full = held.bounds
        own = self.tally(held.own, Condition.MEMORY)
        other = self.tally(held.other, Condition.MEMORY) if held.other else None
        return summarise(nothing, own, other, full, held.static, held.static_losses)

    def recalled(self, batches: Sequence[EpisodeBatch]) -> dict[str, float]:
        """Of further held-out batches, each query read from its own history's memory: recall, loss and their number."""
        sums = self.tally(batches, Condition.MEMORY)
        return {"recall": sums.recall, "own_loss": mean_loss(sums), "queries": len(sums.queries)}

    def tally(self, batches: Sequence[EpisodeBatch], condition: Condition) -> Tally:
        """Answers batches in a condition, shared among the processes."""
        model: Any = self.model
        training = model.training
        model.eval()
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        tallies = []
        # A model that is measured without having been trained here has not been wrapped for its precision.
        with torch.no_grad(), self.accelerator.autocast():
            for start in range(0, len(batches), processes):
                # Sharded models need all processes in every pass, so one without a batch of its own repeats another.
                place = min(start + rank, len(batches) - 1)
                counted = model(batches[place].on(self.args.device), condition=condition)
                if start + rank < len(batches):
                    tallies.append(Tally(*(value.cpu() for value in counted)))
        model.train(training)
        return add(gather_object(tallies) if processes > 1 else tallies)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Also asks for a checkpoint of what is best so far."""
        best: bool = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best
        return best

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place and moves it there when it is whole."""
        run, step = Path(str(self.args.output_dir)), self.state.global_step
        staging, final = run / f".{CHECKPOINT}{step}", run / f"{CHECKPOINT}{step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(staging))
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))
        self._save_rng_state(str(staging))
        progress = {
            "seconds": round(time.monotonic() - self.started, 1),
            "since": self._globalstep_last_logged,
            "loss": self.accelerator.gather(self._tr_loss).mean().item(),
            "seen": self._everyones_seen(),
        }
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(run / f"{CHECKPOINT}{self.state.best_global_step}")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            parts = (*self.callback_handler.callbacks, self.control)
            exported: Any = {type(part).__name__: part.state() for part in parts if isinstance(part, ExportableState)}
            self.state.stateful_callbacks = exported
            self.state.save_to_json(str(staging / STATE_FILE))
            (staging / PROGRESS_FILE).write_text(json.dumps(progress), "utf-8")
            if final.exists():
                shutil.rmtree(final)
            os.replace(staging, final)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(
                output_dir=str(run), save_total_limit=self.args.save_total_limit, best_model_checkpoint=best
            )
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the adapter, and nothing of the backbone."""
        module = self.accelerator.unwrap_model(self.model)
        adapter = gather_adapter(module.model)
        if self.args.should_save:
            write_adapter(adapter, Path(output_dir or str(self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The stock method would save the whole backbone too.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            schedule: Any = self.lr_scheduler
            torch.save(schedule.state_dict(), os.path.join(output_dir, _SCHEDULER_FILE))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Also takes up what had been added up since the last logged step, where the stock trainer begins anew."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        progress = json.loads(Path(checkpoint, PROGRESS_FILE).read_text("utf-8"))
        self._globalstep_last_logged = progress["since"]
        self._tr_loss.fill_(progress["loss"])
        self._seen = progress["seen"] if self.args.process_index == 0 else []

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the adapter was put on the model before it was wrapped."""


def as_batch(items: list[Any], pad_id: int) -> EpisodeBatch:
    """Items of a dataset as one batch.

    Raises:
        ValueError: a query trains no token.
    """
    first = items[0]
    if not isinstance(first, EpisodeBatch):
        return collate(items, pad_id)
    first.check()
    return first


def in_batches(dataset: Dataset[Any], size: int, pad_id: int) -> Iterator[EpisodeBatch]:
    """A dataset's episodes in batches of ``size``, or its batches as they are."""
    assert isinstance(dataset, Sized)
    if isinstance(dataset[0], EpisodeBatch):
        size = 1
    for start in range(0, len(dataset), size):
        yield as_batch([dataset[i] for i in range(start, min(start + size, len(dataset)))], pad_id)


def _length(episode: Any) -> int:
    return int(episode.tokens) + sum(len(query.ids) for query in episode.queries)
