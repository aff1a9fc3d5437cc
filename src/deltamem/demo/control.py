"""The static control of the demo's adapters: trained alike, but every question meets another dialogue's memory.

What it gives is all that an adapter can learn without memory: the form of answers and how often each is right.
``python -m deltamem.demo.control multi --output runs/static`` trains one, for ``deltamem eval --static-adapter``.
"""

import argparse
import json
from pathlib import Path
from typing import get_args

import torch

from deltamem.adapters import save_adapter
from deltamem.attach import attach
from deltamem.demo.adapters import RECIPES, TRAINING_FILE, Which
from deltamem.demo.backbone import load_backbone
from deltamem.demo.episodes import EpisodeSampler
from deltamem.files import write_atomically
from deltamem.train.episodes import EpisodeBatch
from deltamem.train.strangers import turn_rows
from deltamem.train.trainer import Trainer, TrainingPlan


def train_control(
    which: Which, output: Path, *, steps: int | None = None, checkpoint: Path | None = None, seed: int = 0
) -> bool:
    """Trains the control of an adapter and writes its folder; false if a signal stopped it first.

    Args:
        which: the adapter it is the control of: same configuration, dialogues and schedule.
        output: the folder to write.
        steps: updates; as many as the adapter's first stage has by default.
        checkpoint: where to keep the run, and to resume it from.
        seed: of the dialogues and the initial weights.
    """
    recipe = RECIPES[which]
    plan = TrainingPlan(steps=steps or recipe.plan.steps)
    torch.manual_seed(seed)
    model, tokenizer = load_backbone()
    attach(model, recipe.config, name="static")
    sampler = EpisodeSampler(tokenizer, recipe.mix, steps=plan.steps, seed=seed)

    def batch_at(step: int) -> EpisodeBatch:
        return turn_rows(sampler.batch_at(step))

    trainer = Trainer(model, batch_at, plan, checkpoint=checkpoint, log=lambda line: print(line, flush=True))
    finished = trainer.run()
    if finished:
        save_adapter(model, output)
        record = {"control_of": which, "steps": trainer.step, "seconds": round(trainer.seconds), "seed": seed}
        write_atomically(output / TRAINING_FILE, (json.dumps(record, indent=2) + "\n").encode())
    return finished


def main() -> None:
    """Trains the static control of one of the demo's adapters."""
    parser = argparse.ArgumentParser(prog="python -m deltamem.demo.control", description=__doc__)
    parser.add_argument("which", choices=get_args(Which))
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, help="updates (default: as many as the adapter's first stage)")
    parser.add_argument("--checkpoint", type=Path, help="kept during the run, and resumed from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("medium")
    train_control(
        arguments.which,
        arguments.output,
        steps=arguments.steps,
        checkpoint=arguments.checkpoint,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
