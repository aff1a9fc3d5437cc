"""``deltamem baseline lora``: the LoRA that an adapter is compared with, trained on the same data."""

from pathlib import Path
from typing import Annotated

import typer

from deltamem.wording import counted
from deltamem_lab.commands.baselines.training import RecipeChanges, RecipeFile, prepare

_NAME = "lora"


def lora(
    recipe: RecipeFile,
    changes: RecipeChanges = None,
    output: Annotated[Path, typer.Option(help="The folder to write, as PEFT writes one.")] = Path("runs/lora"),
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA; the published one has 8.")] = 8,
    alpha: Annotated[int, typer.Option(min=1, help="The update is scaled by alpha/rank.")] = 16,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 2e-4,
) -> None:
    """Train a LoRA on an adapter's data for as many updates, to compare the two: Context2LoRA.

    It reads every history as text before the question, and has no memory. The recipe's backbone, data, length, batch
    and seed apply; its adapter is ignored.

    Example: deltamem baseline lora recipes/embedded.yaml schedule.steps=200 --output runs/lora
    """
    from deltamem_lab.methods.lora import LoraPlan, add_lora, fit_lora, save_lora

    training = prepare(recipe, changes)
    training.checkpoint_activations()
    plan = LoraPlan(rank=rank, alpha=alpha, rate=rate, steps=training.steps, seed=training.recipe.seed)
    add_lora(training.model, _NAME, plan)
    losses = fit_lora(training.model, _NAME, training.updates(), plan)
    save_lora(training.model, output, _NAME, plan, base=training.base)
    training.write_record(output, steps=plan.steps, rate=rate, losses=losses)
    print(f"Wrote a LoRA to {output}: {counted(plan.steps, 'update')}, loss {losses[0]:.3f} to {losses[-1]:.3f}.")
