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
from deltamem.files import write_atomically
from deltamem.formats.adapter import AdapterFile, model_card, read_adapter, write_adapter, write_card
from deltamem.formats.hub import push_folder
from deltamem.train.arguments import processes, training_arguments
from deltamem.train.checkpoints import CONTROL, METRICS_FILE, RECIPE_FILE, check_folder, last_checkpoint, seconds_spent
from deltamem.train.hf import CHECKPOINT, STATE_FILE, EpisodeTrainer, HeldOut, in_batches
from deltamem.train.loading import (
    Loaded,
    add_trained_adapter,
    check_sources,
    halves,
    load_backbone,
    load_data,
    load_episodes,
    pad_id,
)
from deltamem.train.measure import Measured
from deltamem.train.module import EpisodeModule, fill_adapter, gather_adapter
from deltamem.train.plots import draw_training
from deltamem.train.recipe import Metric, Recipe
from deltamem.train.recipefile import recipe_yaml, save_recipe
from deltamem.train.report import Progress, training_section
from deltamem.train.stopping import Patience, StopOnSignal
from deltamem.train.strangers import Strangers

HISTORY_FILE = "history.json"
PLOT_FILE = "training.png"


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
        resume: go on from the last checkpoint in the recipe's folder; with no checkpoint yet, from the start.

    Raises:
        ValueError: the folder holds another run, the data is bad, or the batch does not divide.
        OSError: the backbone or the data is not there.
    """
    folder = Path(recipe.output.folder)
    recipe.schedule.accumulation(processes())
    check_folder(folder, recipe, resume=resume)
    check_sources(recipe)
    figure_class("train")
    started = time.monotonic() - seconds_spent(folder)
    # They also make the process group, if there are several processes.
    arguments = training_arguments(recipe, folder)
    main_process = arguments.process_index == 0
    if main_process:
        save_recipe(recipe, folder / RECIPE_FILE)
    loaded = load_backbone(recipe.backbone)
    padding = pad_id(loaded.tokenizer)
    with arguments.main_process_first(local=False):
        training, held = load_data(recipe, loaded.tokenizer, progress=main_process)
        further = {
            name: load_episodes(data, loaded.tokenizer, recipe, progress=main_process)
            for name, data in recipe.evaluation.further.items()
        }
    evaluation = recipe.evaluation
    # What a checkpoint is chosen by flatters it, so half of the episodes are kept apart to report it on.
    parts = (None, held) if held is None or evaluation.every is None else halves(held, recipe.seed)
    choosing, reporting = (HeldOut.of(part, evaluation.batch, padding) if part is not None else None for part in parts)
    stop = StopOnSignal()
    with stop.listening():
        if evaluation.control and reporting is not None:
            result = folder / CONTROL / METRICS_FILE
            if not result.exists():
                steps = _train_control(recipe, loaded, training, choosing, reporting, result, stop, padding, started)
                if stop.received:
                    return Outcome(folder, steps, stop.received)
                # The control's backbone may be wrapped and sharded by now.
                loaded = load_backbone(recipe.backbone)
            static = json.loads(result.read_text("utf-8"))
            reporting.static = static["static_loss"]
            if choosing is not None:
                choosing.static = static["choosing_static_loss"]
        trainer = _train(recipe, loaded, training, folder, choosing, evaluation.metric, stop, padding, started)
    steps = trainer.state.global_step
    if stop.received:
        return Outcome(folder, steps, stop.received)
    measured = trainer.measure(reporting) if reporting is not None else None
    batch = evaluation.batch
    recalled = {name: trainer.recalled(list(in_batches(data, batch, padding))) for name, data in further.items()}
    model = trainer.accelerator.unwrap_model(trainer.model).model
    adapter = gather_adapter(model)
    pushed = None
    if main_process:
        seconds = time.monotonic() - started
        _write(recipe, folder, adapter, trainer, measured, recalled, seconds)
        if recipe.output.push_to_hub:
            pushed = push_folder(folder, recipe.output.push_to_hub, private=recipe.output.private)
    trainer.accelerator.wait_for_everyone()
    return Outcome(folder, steps, measured=measured, pushed=pushed)


def _train_control(
    recipe: Recipe,
    loaded: Loaded,
    training: Dataset[Any],
    choosing: HeldOut | None,
    reporting: HeldOut,
    result: Path,
    stop: StopOnSignal,
    padding: int,
    started: float,
) -> int:
    """Trains the static control, writes its losses to ``result`` unless a signal came, and returns its updates.

    It is trained, chosen and ended as the adapter itself is, by what it is there for: its loss under strangers'
    memories.
    """
    strangers, only = Strangers(training, recipe.seed), choosing.of_strangers() if choosing else None
    control = _train(recipe, loaded, strangers, result.parent, only, "own_loss", stop, padding, started)
    state = control.state
    if not stop.received:
        numbers = {
            "steps": state.global_step,
            "best_step": state.best_global_step or state.global_step,
            "static_loss": control.measure(reporting.of_strangers()).own,
            "choosing_static_loss": control.measure(only).own if only else None,
        }
        if control.is_world_process_zero():
            write_atomically(result, (json.dumps(numbers, indent=2) + "\n").encode())
        control.accelerator.wait_for_everyone()
    return state.global_step


def _train(
    recipe: Recipe,
    loaded: Loaded,
    dataset: Dataset[Any],
    folder: Path,
    held_out: HeldOut | None,
    metric: Metric,
    stop: StopOnSignal,
    padding: int,
    started: float,
) -> EpisodeTrainer:
    """Trains one adapter, on from the folder's last checkpoint, and leaves the best of it on the model.

    ``held_out`` is what the best is chosen by; without it, the last is what is left.
    """
    model = loaded.model
    add_trained_adapter(model, recipe)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        fill_adapter(model, read_adapter(checkpoint))
    if recipe.optimiser.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    callbacks: list[Any] = [stop]
    if recipe.evaluation.patience and held_out is not None:
        callbacks.append(Patience(recipe.evaluation.patience))
    trainer = EpisodeTrainer(
        EpisodeModule(model, recipe.objective),
        training_arguments(recipe, folder, metric=metric if held_out is not None else None),
        dataset,
        pad_id=padding,
        held_out=held_out,
        callbacks=callbacks,
        started=started,
    )
    for stock in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(stock)
    trainer.add_callback(Progress(bar=sys.stderr.isatty()))
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE)) if checkpoint else None
    if state is not None and (state.global_step >= state.max_steps or Patience.ran_out(state)):
        trainer.state = state  # the stock loop would take one update more
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # By its step: the path that the state has is that of where the folder lay then.
    best = trainer.state.best_global_step
    if best and not stop.received:
        fill_adapter(
            trainer.accelerator.unwrap_model(trainer.model).model, read_adapter(folder / f"{CHECKPOINT}{best}")
        )
    return trainer


def _write(
    recipe: Recipe,
    folder: Path,
    adapter: AdapterFile,
    trainer: EpisodeTrainer,
    measured: Measured | None,
    recalled: dict[str, dict[str, float]],
    seconds: float,
) -> None:
    """The finished adapter with its card, numbers and plot."""
    write_adapter(adapter, folder)
    numbers = {
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "trainable_parameters": adapter.parameters,
        "state_bytes": new_state(trainer.accelerator.unwrap_model(trainer.model).model).nbytes,
        "processes": processes(),
        "seconds": round(seconds, 1),
        "measured": measured.metrics() if measured else None,
        "further": recalled,
    }
    write_atomically(folder / METRICS_FILE, (json.dumps(numbers, indent=2) + "\n").encode())
    history = trainer.state.log_history
    write_atomically(folder / HISTORY_FILE, (json.dumps(history, indent=1) + "\n").encode())
    draw_training(history, folder / PLOT_FILE)
    section = training_section(recipe_yaml(recipe), measured, trainer.state.global_step)
    source = recipe.output.push_to_hub or str(folder)
    write_card(model_card(adapter, source=source, license=recipe.output.license, training=section), folder)
