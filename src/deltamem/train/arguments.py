"""A recipe as the arguments of transformers' ``Trainer``."""

import os
import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from deltamem.train.recipe import Metric, Recipe

# Which way the metrics that a best checkpoint can be chosen by are better.
HIGHER_IS_BETTER: dict[Metric, bool] = {"own_loss": False, "recall": True}


def processes() -> int:
    """How many processes the launcher (``torchrun``, ``accelerate launch``) started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def training_arguments(recipe: Recipe, folder: Path, *, metric: Metric | None = None) -> TrainingArguments:
    """The arguments of one training; the best checkpoint is the best in ``metric``, without which none is measured.

    Raises:
        ValueError: the batch does not divide among the processes.
    """
    optimiser, schedule, logging, evaluation = recipe.optimiser, recipe.schedule, recipe.logging, recipe.evaluation
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=not torch.accelerator.is_available(),
        seed=recipe.seed,
        per_device_train_batch_size=schedule.micro_batch,
        gradient_accumulation_steps=schedule.accumulation(processes()),
        num_train_epochs=schedule.epochs or 1.0,
        max_steps=schedule.steps or -1,
        lr_scheduler_type="constant_with_warmup" if schedule.kind == "constant" else schedule.kind,
        warmup_steps=schedule.warm_up,
        optim="adamw_torch_fused",
        learning_rate=optimiser.learning_rate,
        weight_decay=optimiser.weight_decay,
        adam_beta1=optimiser.betas[0],
        adam_beta2=optimiser.betas[1],
        max_grad_norm=optimiser.clip,
        bf16=optimiser.precision == "bf16",
        # Every parameter of the adapter takes part in every step.
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        logging_steps=logging.every,
        report_to=list(logging.report_to) or "none",
        run_name=logging.name,
        disable_tqdm=not sys.stderr.isatty(),
        eval_strategy="steps" if metric else "no",
        eval_steps=evaluation.every if metric else None,
        metric_for_best_model=f"eval_{metric}" if metric else None,
        greater_is_better=HIGHER_IS_BETTER[metric] if metric else None,
        restore_callback_states_from_checkpoint=True,
        save_strategy="steps",
        save_steps=recipe.output.save_every,
        # The best one counts; with a limit of 1 the stock trainer deletes all but it in the end, the last one too.
        save_total_limit=recipe.output.keep + (metric is not None),
    )
