"""``deltamem baseline memgen``: the weaver of MemGen, trained on an adapter's data."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem.wording import counted
from deltamem_lab.commands.baselines.training import RecipeChanges, RecipeFile, prepare

if TYPE_CHECKING:
    from deltamem_lab.methods.training import TokenRows

_NAME = "memgen"


def memgen(
    recipe: RecipeFile,
    changes: RecipeChanges = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("runs/memgen"),
    latents: Annotated[int, typer.Option(min=1, help="Latent tokens in each insertion; the authors' code has 8.")] = 8,
    insertions: Annotated[
        int, typer.Option(min=0, help="The most insertions after delimiters, besides the one after the prompt.")
    ] = 5,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the weaver's LoRA.")] = 16,
    alpha: Annotated[int, typer.Option(min=1, help="The LoRA's update is scaled by alpha/rank.")] = 32,
    projections: Annotated[
        str, typer.Option(help="Layers that get the LoRA, by the ends of their paths.")
    ] = "q_proj,v_proj,qkv_proj",
    rate: Annotated[float, typer.Option(help="The highest learning rate; the authors' is 1e-5.")] = 2e-3,
    answers: Annotated[int, typer.Option(min=1, help="The most answers of its batch that an update learns.")] = 4,
) -> None:
    """Train the weaver of MemGen on an adapter's data for as many updates, to compare the two.

    It reads every history as text before the question and adds latent tokens for the backbone, which stays as it is.
    The published trigger, which decides when to add them, is not trained: they are added at every possible place. The
    recipe's backbone, data, length, batch and seed apply; its adapter is ignored.

    Example: deltamem baseline memgen recipes/embedded.yaml --output runs/memgen
    """
    from deltamem_lab.methods.lora import LoraPlan
    from deltamem_lab.methods.memgen.files import save_weaver
    from deltamem_lab.methods.memgen.learning import fit_weaver
    from deltamem_lab.methods.memgen.weaver import WeaverPlan, add_weaver

    training = prepare(recipe, changes)
    if training.recipe.optimiser.gradient_checkpointing:
        raise ValueError("A weaver takes no gradient checkpointing: add optimiser.gradient_checkpointing=false.")
    lora = LoraPlan(
        rank=rank,
        alpha=alpha,
        projections=tuple(projections.split(",")),
        rate=rate,
        steps=training.steps,
        batch=answers,
        seed=training.recipe.seed,
    )
    plan = WeaverPlan(lora, latents, insertions)
    weaver = add_weaver(training.model, _NAME, plan)
    updates = _some(training.updates(plan.most_latents), answers, training.recipe.seed)
    losses = fit_weaver(training.model, weaver, training.tokenizer, updates)
    save_weaver(training.model, weaver, output, training.base)
    training.write_record(output, steps=lora.steps, rate=rate, answers=answers, losses=losses)
    print(f"Wrote a weaver to {output}: {counted(lora.steps, 'update')}, loss {losses[0]:.3f} to {losses[-1]:.3f}.")


def _some(updates: Iterable[Sequence["TokenRows"]], most: int, seed: int) -> Iterator[list["TokenRows"]]:
    """At most so many rows of each update, from whichever of its passes."""
    for step, passes in enumerate(updates):
        places = [(number, row) for number, rows in enumerate(passes) for row in range(len(rows.ids))]
        drawn = random.Random(f"answers {seed}/{step}").sample(places, min(most, len(places)))
        chosen = [[row for number, row in drawn if number == place] for place in range(len(passes))]
        yield [rows.select(places) for rows, places in zip(passes, chosen, strict=True) if places]
