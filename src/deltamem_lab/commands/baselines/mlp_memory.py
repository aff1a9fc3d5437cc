"""``deltamem baseline mlp-memory``: the MLP that an adapter is compared with, trained on the same data."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem.wording import counted
from deltamem_lab.commands.baselines.training import RecipeChanges, RecipeFile, prepare

if TYPE_CHECKING:
    from deltamem_lab.commands.baselines.training import Training


def mlp_memory(
    recipe: RecipeFile,
    changes: RecipeChanges = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("runs/mlp-memory"),
    size: Annotated[
        int, typer.Option(min=2, help="The most keys in the datastore, one for each token of the text.")
    ] = 30_000,
    layer: Annotated[int, typer.Option(help="The block whose feed-forward reads the keys; -1 is the last.")] = -1,
    neighbours: Annotated[int, typer.Option(min=1, help="How many keys a key is compared with.")] = 1024,
    temperature: Annotated[
        float, typer.Option(help="Temperature of the search, in squared distances; the authors' is 16.")
    ] = 16.0,
    blocks: Annotated[
        int, typer.Option(min=1, help="Blocks of the MLP; the published one has 36 on 4 B parameters.")
    ] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Updates, of 256 keys each.")] = 600,
    rate: Annotated[float, typer.Option(help="The highest learning rate; the authors' is 5e-4.")] = 4e-3,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the MLP in the answers' distribution.")] = 0.25,
) -> None:
    """Train an MLP to imitate a nearest-neighbour search in an adapter's data: MLP Memory.

    The text is every history with its questions and answers, from as many of the recipe's episodes as the datastore has
    room for, in a seeded order. The recipe's adapter and number of updates are ignored.

    Example: deltamem baseline mlp-memory recipes/embedded.yaml --output runs/mlp-memory
    """
    if temperature <= 0:
        raise typer.BadParameter("--temperature must be above 0.")
    training = prepare(recipe, changes)
    from rich.console import Console

    from deltamem_lab.methods.mlp_memory.datastore import build_datastore, knn_targets
    from deltamem_lab.methods.mlp_memory.files import save_memory
    from deltamem_lab.methods.mlp_memory.learning import MlpPlan, fit_memory, measure_memory
    from deltamem_lab.methods.mlp_memory.network import fresh_memory

    seed, model, console = training.recipe.seed, training.model.eval(), Console(stderr=True)
    memory = fresh_memory(model, blocks=blocks, layer=layer, seed=seed)
    with console.status("Reading the text"):
        store = build_datastore(model, _passes(training), layer=layer, size=size)
    with console.status("Searching for neighbours"):
        targets = knn_targets(store, memory.shape.vocabulary, neighbours=neighbours, temperature=temperature)
    with console.status("Training"):
        before = measure_memory(memory, store, targets)
        losses = fit_memory(memory, store, targets, MlpPlan(rate=rate, steps=steps, seed=seed))
        after = measure_memory(memory, store, targets)
    save_memory(memory, output, model, share=share, base=training.base)
    training.write_record(
        output,
        keys=len(store),
        neighbours=neighbours,
        temperature=temperature,
        steps=steps,
        rate=rate,
        imitation=[before.imitation.item(), after.imitation.item()],
        following=[before.following.item(), after.following.item()],
        losses=losses,
    )
    print(
        f"Wrote an MLP memory to {output}: {counted(len(store), 'key')}, {counted(steps, 'update')}; "
        f"from what the neighbours say {before.imitation:.3f} to {after.imitation:.3f} nats, "
        f"loss of the next token {before.following:.3f} to {after.following:.3f}."
    )


def _passes(training: "Training") -> Iterator[list[list[int]]]:
    """The texts of each forward pass: queries with their histories before them, every episode once."""
    import torch

    from deltamem.observe import positions
    from deltamem.train.episodes import EpisodeBatch
    from deltamem.train.hf import as_batch
    from deltamem.train.loading import pad_id
    from deltamem.train.views import full_texts

    dataset, padding = training.dataset, pad_id(training.tokenizer)
    most = positions(training.model)
    together = 1 if isinstance(dataset[0], EpisodeBatch) else training.recipe.schedule.micro_batch
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(training.recipe.seed))
    for places in order.split(together):
        texts = full_texts(as_batch([dataset[place] for place in places.tolist()], padding), most)
        yield [ids[mask].tolist() for ids, mask in zip(texts.ids, texts.mask, strict=True)]
