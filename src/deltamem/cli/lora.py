"""``deltamem lora``: the LoRA that an adapter is compared with, trained on the same data by as many updates."""

import json
import math
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deltamem.eval.methods.lora import Rows
    from deltamem.train.recipe import Recipe

_NAME = "lora"
_TRAINING_FILE = "training.json"


def lora(
    recipe: Annotated[Path, typer.Argument(help="The adapter's recipe, a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as schedule.steps=100.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder to write, as PEFT writes one.")] = Path("runs/lora"),
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA; the published one has 8.")] = 8,
    alpha: Annotated[int, typer.Option(min=1, help="The update is scaled by alpha/rank.")] = 16,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 2e-4,
) -> None:
    """Train a LoRA on an adapter's data by as many updates, to compare the two: Context2LoRA.

    It reads every history as text before the question, and has no memory. What the recipe says of the backbone, the
    data, the length, the batch and the seed holds; what it says of the adapter does not.

    Example: deltamem lora recipes/embedded.yaml schedule.steps=200 --output runs/lora
    """
    try:
        from deltamem.train.recipefile import load_recipe
    except ImportError as error:
        raise ImportError(f'Training needs {error.name}: pip install "deltamem[train]"') from None
    import torch
    from transformers.utils import logging

    from deltamem.eval.methods.lora import LoraPlan, add_lora, fit_lora, save_lora
    from deltamem.files import write_atomically
    from deltamem.train.loading import load_backbone, load_data, pad_id

    logging.set_verbosity_error()
    checked = load_recipe(recipe, changes or ())
    model: Any
    model, tokenizer = load_backbone(checked.backbone)
    dataset: Any = load_data(checked, tokenizer, progress=True)[0]
    schedule = checked.schedule
    steps = schedule.steps or math.ceil((schedule.epochs or 1) * math.ceil(len(dataset) / schedule.batch))
    plan = LoraPlan(rank=rank, alpha=alpha, rate=rate, steps=steps, seed=checked.seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if checked.optimiser.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    add_lora(model, _NAME, plan)
    updates = _updates(checked, dataset, steps, pad_id(tokenizer), model.config.get_text_config(decoder=True))
    losses = fit_lora(model, _NAME, updates, plan)
    save_lora(model, output, _NAME, plan, base=str(checked.backbone.model or ""))
    record = {"recipe": str(recipe), "changes": changes or [], "steps": steps, "rate": rate, "losses": losses}
    write_atomically(output / _TRAINING_FILE, (json.dumps(record, indent=2) + "\n").encode())
    print(f"Wrote a LoRA to {output}: {steps} updates, loss {losses[0]:.3f} to {losses[-1]:.3f}.")


def _updates(recipe: "Recipe", dataset: Any, steps: int, padding: int, config: Any) -> Iterator[list["Rows"]]:
    """The queries of each update with their histories before them, a pass for each micro-batch."""
    from rich.console import Console
    from rich.progress import track

    from deltamem.eval.methods.lora import Rows
    from deltamem.train.episodes import EpisodeBatch
    from deltamem.train.hf import as_batch
    from deltamem.train.views import full_texts

    positions = getattr(config, "max_position_embeddings", None)
    # Ready batches are in the order in which training is meant to meet them.
    places = cycle(range(len(dataset))) if isinstance(dataset[0], EpisodeBatch) else _places(len(dataset), recipe.seed)
    size, micro = recipe.schedule.batch, recipe.schedule.micro_batch
    for _ in track(range(steps), "Training", console=Console(stderr=True), transient=True):
        items = [dataset[next(places)] for _ in range(size)]
        parts = [items[start : start + micro] for start in range(0, size, micro)]
        texts = [full_texts(as_batch(part, padding), positions) for part in parts]
        yield [Rows(text.ids, text.weights) for text in texts]


def _places(items: int, seed: int) -> Iterator[int]:
    """The numbers of the items, in another order each time all have come."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(items, generator=generator).tolist()
