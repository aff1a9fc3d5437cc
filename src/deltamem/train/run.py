"""A whole training run from a recipe: the static control if asked for, the adapter, its measures and its files."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerState
from transformers.trainer_callback import ProgressCallback

from deltamem.attach import new_state
from deltamem.figures import figure_class
from deltamem.files import write_json
from deltamem.formats.adapter import AdapterFile, model_card, read_adapter, write_adapter, write_card
from deltamem.formats.hub import push_folder
from deltamem.train.arguments import processes, training_arguments
from deltamem.train.checkpoints import (
    CONTROL,
    DATA_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    check_data,
    check_folder,
    last_checkpoint,
    seconds_spent,
)
from deltamem.train.fit import fit
from deltamem.train.fitoptions import FitOptions
from deltamem.train.hf import CHECKPOINT, STATE_FILE, EpisodeTrainer, HeldOut, in_batches
from deltamem.train.loading import (
    add_trained_adapter,
    check_sources,
    halves,
    load_backbone,
    load_data,
    load_episodes,
    pad_id,
)
from deltamem.train.measure import Condition, Measured, mean_loss
from deltamem.train.module import EpisodeModule, fill_adapter, gather_adapter
from deltamem.train.recipe import Metric, Recipe
from deltamem.train.recipefile import recipe_yaml, save_recipe
from deltamem.train.report import ProgressLines, ProgressLinesAndBar, draw_training, training_section
from deltamem.train.stopping import Patience, StopOnSignal
from deltamem.train.strangers import Strangers

HISTORY_FILE = "history.json"
PLOT_FILE = "training.png"
_CONTROL_TITLE = (
    "First the static control: the same adapter, trained on other conversations' histories alone. What the adapter "
    "gains over it is memory."
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        steps: the updates made of what was being trained last.
        signal: the signal that stopped it, or 0 when it is done.
        measured: the finished adapter on the held-out episodes, if there are any.
        pushed: the address of the Hub's commit, if it was pushed.
    """

    folder: Path
    steps: int
    signal: int = 0
    measured: Measured | None = None
    pushed: str | None = None


def run(recipe: Recipe, *, resume: bool = False) -> Outcome:
    """Trains by a recipe, in as many processes as the launcher started.

    Args:
        recipe: what to do.
        resume: continue from the last checkpoint in the recipe's folder; with no checkpoint yet, from the start.

    Raises:
        ValueError: the folder holds another run, the data is bad, or the batch does not divide.
        OSError: the backbone or the data is not there.
    """
    return Run(recipe, resume=resume).train()


class Run:
    """A training run: the recipe, what it names, loaded, and the signals that stop it; see :func:`run`."""

    def __init__(self, recipe: Recipe, *, resume: bool = False) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.output.folder)
        recipe.schedule.accumulation(processes())
        check_folder(self.folder, recipe, resume=resume)
        check_sources(recipe)
        figure_class("train")
        self.started = time.monotonic() - seconds_spent(self.folder)
        self.stop = StopOnSignal()
        # They also make the process group, if there are several processes.
        arguments = training_arguments(recipe, self.folder)
        self.main_process = arguments.process_index == 0
        if self.main_process:
            save_recipe(recipe, self.folder / RECIPE_FILE)
        self.model, tokenizer = load_backbone(recipe.backbone)
        evaluation = recipe.evaluation
        self.padding = pad_id(tokenizer)
        with arguments.main_process_first(local=False):
            self.data, held = load_data(recipe, tokenizer, progress=self.main_process)
            self.further = {
                name: load_episodes(data, tokenizer, recipe, progress=self.main_process)
                for name, data in evaluation.further.items()
            }
        further = {f"evaluation.further.{name}": data for name, data in self.further.items()}
        datasets = {"data": self.data, "evaluation": held, **further}
        known = check_data(self.folder, datasets, resume=resume)
        if self.main_process:
            write_json(self.folder / DATA_FILE, known)
        # What a checkpoint is chosen by flatters it, so half of the episodes are kept apart to report it on.
        parts = (None, held) if held is None or evaluation.every is None else halves(held, recipe.seed)
        self.choosing, self.reporting = (
            HeldOut.of(part, evaluation.batch, self.padding) if part is not None else None for part in parts
        )

    def train(self) -> Outcome:
        """Trains the static control if it is asked for, then the adapter, and writes it with its measures."""
        with self.stop.listening():
            if self.recipe.evaluation.control and self.reporting is not None:
                steps = self._compare_with_control(self.reporting)
                if self.stop.received:
                    return Outcome(self.folder, steps, self.stop.received)
            metric = self.recipe.evaluation.metric
            trainer = self._train_adapter(self.data, self.folder, self.choosing, metric, "Training the adapter.")
        steps = trainer.state.global_step
        if self.stop.received:
            return Outcome(self.folder, steps, self.stop.received)
        return self._finish(trainer)

    def _compare_with_control(self, reporting: HeldOut) -> int:
        """Has the static control's loss stand beside the adapter's; trains it if that is not done yet.

        Returns:
            the updates of the control that were made now.
        """
        result, steps = self.folder / CONTROL / METRICS_FILE, 0
        if not result.exists():
            steps = self._train_control(reporting, result)
            if self.stop.received:
                return steps
            # The control's backbone may be wrapped and sharded by now.
            self.model, _ = load_backbone(self.recipe.backbone)
        static = json.loads(result.read_text("utf-8"))
        reporting.static, reporting.static_losses = static["static_loss"], static.get("static_losses")
        if self.choosing is not None:
            self.choosing.static = static["choosing_static_loss"]
        return steps

    def _train_control(self, reporting: HeldOut, result: Path) -> int:
        """Trains the static control, writes its losses to ``result`` unless a signal came, and returns its updates.

        It is trained, chosen and ended as the adapter itself is, by what it is there for: its loss under strangers'
        memories.
        """
        strangers = Strangers(self.data, self.recipe.seed)
        only = self.choosing.of_strangers() if self.choosing else None
        control = self._train_adapter(strangers, result.parent, only, "own_loss", _CONTROL_TITLE)
        state = control.state
        if not self.stop.received:
            sums = control.tally(reporting.other, Condition.MEMORY)
            numbers = {
                "steps": state.global_step,
                "best_step": state.best_global_step or state.global_step,
                "static_loss": mean_loss(sums),
                "static_losses": sums.queries[:, 0].tolist(),
                "choosing_static_loss": mean_loss(control.tally(only.own, Condition.MEMORY)) if only else None,
            }
            if control.is_world_process_zero():
                write_json(result, numbers)
            control.accelerator.wait_for_everyone()
        return state.global_step

    def _train_adapter(
        self, dataset: Dataset[Any], folder: Path, held_out: HeldOut | None, metric: Metric, title: str
    ) -> EpisodeTrainer:
        """Trains one adapter, on from the folder's last checkpoint, and leaves the best of it on the model.

        ``held_out`` is what the best is chosen by; without it, the last is what is left. The log says ``title`` first.
        """
        model, recipe = self.model, self.recipe
        add_trained_adapter(model, recipe)
        checkpoint = last_checkpoint(folder)
        if checkpoint is not None:
            fill_adapter(model, read_adapter(checkpoint))
        elif recipe.fit is not None:
            self._fit(recipe.fit)
        if recipe.optimiser.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        callbacks: list[Any] = [self.stop]
        if recipe.evaluation.patience and held_out is not None:
            callbacks.append(Patience(recipe.evaluation.patience))
        trainer = EpisodeTrainer(
            EpisodeModule(model, recipe.objective),
            training_arguments(recipe, folder, metric=metric if held_out is not None else None),
            dataset,
            pad_id=self.padding,
            held_out=held_out,
            callbacks=callbacks,
            started=self.started,
        )
        for stock in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(stock)
        lines = ProgressLinesAndBar if sys.stderr.isatty() else ProgressLines
        trainer.add_callback(lines(title))
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE)) if checkpoint else None
        if state is not None and (state.global_step >= state.max_steps or Patience.ran_out(state)):
            trainer.state = state  # the stock loop would take one update more
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # By its step: the path that the state has is that of where the folder lay then.
        best = trainer.state.best_global_step
        if best and not self.stop.received:
            fill_adapter(_bare(trainer), read_adapter(folder / f"{CHECKPOINT}{best}"))
        return trainer

    def _fit(self, options: FitOptions) -> None:
        """Computes the first weights from the training data; a control begins with the same ones."""
        if self.main_process:
            print("Computing the first weights from the data.", file=sys.stderr, flush=True)
        told = fit(self.model, in_batches(self.data, self.recipe.evaluation.batch, self.padding), options)
        if self.main_process:
            print(f"They come from {told:,} told tokens that answers repeat.", file=sys.stderr, flush=True)

    def _finish(self, trainer: EpisodeTrainer) -> Outcome:
        """Measures the finished adapter, and writes and pushes it."""
        recipe, batch = self.recipe, self.recipe.evaluation.batch
        measured = trainer.measure(self.reporting) if self.reporting is not None else None
        recalled = {
            name: trainer.recalled(list(in_batches(data, batch, self.padding))) for name, data in self.further.items()
        }
        adapter = gather_adapter(_bare(trainer))
        pushed = None
        if self.main_process:
            self._write(adapter, trainer, measured, recalled)
            if recipe.output.push_to_hub:
                pushed = push_folder(self.folder, recipe.output.push_to_hub, private=recipe.output.private)
        trainer.accelerator.wait_for_everyone()
        return Outcome(self.folder, trainer.state.global_step, measured=measured, pushed=pushed)

    def _write(
        self,
        adapter: AdapterFile,
        trainer: EpisodeTrainer,
        measured: Measured | None,
        recalled: dict[str, dict[str, float]],
    ) -> None:
        """The finished adapter with its card, numbers and plot."""
        folder, state, output = self.folder, trainer.state, self.recipe.output
        write_adapter(adapter, folder)
        numbers = {
            "steps": state.global_step,
            "best_step": state.best_global_step or state.global_step,
            "trainable_parameters": adapter.parameters,
            "state_bytes": new_state(_bare(trainer)).nbytes,
            "processes": processes(),
            "seconds": round(time.monotonic() - self.started, 1),
            "measured": measured.metrics() if measured else None,
            "further": recalled,
        }
        write_json(folder / METRICS_FILE, numbers)
        write_json(folder / HISTORY_FILE, state.log_history, indent=1)
        draw_training(state.log_history, folder / PLOT_FILE)
        section = training_section(recipe_yaml(self.recipe), measured, state.global_step)
        source = output.push_to_hub or str(folder)
        write_card(model_card(adapter, source=source, license=output.license, training=section), folder)


def _bare(trainer: EpisodeTrainer) -> Any:
    """The model with the adapter, without what the trainer wraps it in."""
    return trainer.accelerator.unwrap_model(trainer.model).model
