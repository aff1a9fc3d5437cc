"""A whole training run from a recipe: the static control if asked for, the adapter, its measures and its files."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerState
from transformers.trainer_callback import ProgressCallback

from deltamem.adapters import push_folder
from deltamem.attach import new_state
from deltamem.card import model_card, write_card
from deltamem.checkpoint import AdapterFile, read_adapter, write_adapter
from deltamem.figures import figure_class
from deltamem.files import write_atomically
from deltamem.train.arguments import processes, training_arguments
from deltamem.train.checkpoints import RECIPE_FILE, check_folder, last_checkpoint
from deltamem.train.hf import STATE_FILE, EpisodeTrainer, HeldOut, in_batches
from deltamem.train.loading import (
    Loaded,
    add_trained_adapter,
    check_files,
    load_backbone,
    load_data,
    load_episodes,
    pad_id,
)
from deltamem.train.measure import Measured
from deltamem.train.module import EpisodeModule, fill_adapter, gather_adapter
from deltamem.train.plots import draw_training
from deltamem.train.recipe import Recipe
from deltamem.train.recipefile import recipe_yaml, save_recipe
from deltamem.train.report import ProgressLines, training_section
from deltamem.train.stopping import StopOnSignal
from deltamem.train.strangers import Strangers

METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.json"
PLOT_FILE = "training.png"
CONTROL = "control"


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
    check_files(recipe)
    figure_class("train")
    started = time.monotonic()
    # They also make the process group, if there are several processes.
    arguments = training_arguments(recipe, folder, evaluates=False)
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
    held_out = HeldOut(held, recipe.evaluation.batch, padding) if held is not None else None
    stop = StopOnSignal()
    with stop.listening():
        result = folder / CONTROL / METRICS_FILE
        if held_out is not None and result.exists():
            held_out.static = json.loads(result.read_text("utf-8"))["static_loss"]
        elif held_out is not None and recipe.evaluation.control:
            control = _train(recipe, loaded, Strangers(training, recipe.seed), folder / CONTROL, None, stop, padding)
            if stop.received:
                return Outcome(folder, control.state.global_step, stop.received)
            control.held_out = held_out
            held_out.static = control.static_loss()
            if main_process:
                write_atomically(result, (json.dumps({"static_loss": held_out.static}) + "\n").encode())
            # The control's backbone may be wrapped and sharded by now.
            del control
            loaded = load_backbone(recipe.backbone)
        trainer = _train(recipe, loaded, training, folder, held_out, stop, padding)
    steps = trainer.state.global_step
    if stop.received:
        return Outcome(folder, steps, stop.received)
    measured = trainer.measure() if held_out is not None else None
    batch = recipe.evaluation.batch
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


def _train(
    recipe: Recipe,
    loaded: Loaded,
    dataset: Dataset[Any],
    folder: Path,
    held_out: HeldOut | None,
    stop: StopOnSignal,
    padding: int,
) -> EpisodeTrainer:
    """Trains one adapter, on from the folder's last checkpoint, and leaves the best of it on the model."""
    model = loaded.model
    add_trained_adapter(model, recipe)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        fill_adapter(model, read_adapter(checkpoint))
    if recipe.optimiser.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if recipe.optimiser.compile:
        model.compile()
    callbacks: list[Any] = [stop, ProgressLines()]
    if recipe.evaluation.patience and held_out is not None:
        callbacks.append(EarlyStoppingCallback(recipe.evaluation.patience))
    trainer = EpisodeTrainer(
        EpisodeModule(model, recipe.objective),
        training_arguments(recipe, folder, evaluates=held_out is not None),
        dataset,
        pad_id=padding,
        held_out=held_out,
        callbacks=callbacks,
    )
    for stock in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(stock)
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE)) if checkpoint else None
    if state is not None and state.global_step >= state.max_steps:
        trainer.state = state  # the stock loop would take one update more
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    best = trainer.state.best_model_checkpoint
    if best is not None and not stop.received:
        fill_adapter(trainer.accelerator.unwrap_model(trainer.model).model, read_adapter(Path(best)))
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
