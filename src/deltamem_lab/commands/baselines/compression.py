"""``deltamem baseline compression``: the classifier that compresses histories, trained on an adapter's data."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_lab.commands.baselines.training import RecipeChanges, RecipeFile, prepare

if TYPE_CHECKING:
    from deltamem_lab.commands.baselines.training import Training
    from deltamem_lab.methods.llmlingua2.labels import Asked


def compression(
    recipe: RecipeFile,
    changes: RecipeChanges = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("runs/compression"),
    texts: Annotated[int, typer.Option(min=1, help="The most histories to learn from.")] = 4000,
    pieces: Annotated[int, typer.Option(min=300, help="The largest vocabulary, in word pieces.")] = 4000,
    width: Annotated[int, typer.Option(min=8, help="Width of the hidden states.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the classifier.")] = 2,
    common: Annotated[
        float, typer.Option(min=0, max=1, help="Ignore words that more than this share of questions have.")
    ] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Updates, of 8 windows of 512 pieces each.")] = 300,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 2e-3,
) -> None:
    """Train a small classifier to find the telling words of a history, to compress it to these.

    Telling words are those that an episode's questions and answers repeat; LLMLingua-2's classifier learned what GPT-4
    keeps. The recipe's adapter and number of updates are ignored.

    Example: deltamem baseline compression recipes/embedded.yaml --output runs/compression
    """
    training = prepare(recipe, changes)
    from rich.console import Console

    from deltamem_lab.methods.llmlingua2.classifier import ClassifierPlan, train_classifier

    plan = ClassifierPlan(
        pieces=pieces, width=width, layers=layers, common=common, rate=rate, steps=steps, seed=training.recipe.seed
    )
    with Console(stderr=True).status("Training"):
        asked = list(islice(_asked(training), texts))
        trained = train_classifier(asked, plan, training.model.device)
    trained.tokenizer.save_pretrained(output)
    trained.model.save_pretrained(output)
    telling, losses = trained.telling, trained.losses
    training.write_record(output, texts=len(asked), telling=telling, steps=steps, rate=rate, losses=losses)
    print(
        f"Wrote a classifier to {output}: {len(asked):,} histories, {100 * telling:.0f} % of their pieces "
        f"telling; loss {losses[0]:.3f} to {losses[-1]:.3f}. Use it by --compressor {output}."
    )


def _asked(training: "Training") -> Iterator["Asked"]:
    """Every episode's history and queries as texts, in a seeded order, one text a history."""
    import torch

    from deltamem.train.hf import as_batch
    from deltamem.train.loading import pad_id
    from deltamem_lab.methods.llmlingua2.labels import Asked

    tokenizer, padding = training.tokenizer, pad_id(training.tokenizer)
    special = set(tokenizer.all_special_ids)

    def text(ids: "torch.Tensor", mask: "torch.Tensor") -> str:
        return str(tokenizer.decode([token for token in ids[mask].tolist() if token not in special]))

    order = torch.randperm(len(training.dataset), generator=torch.Generator().manual_seed(training.recipe.seed))
    for place in order.tolist():
        batch = as_batch([training.dataset[place]], padding)
        for row in range(batch.rows):
            history = "\n".join(text(part.ids[row], part.mask[row]) for part in batch.passages)
            own = (batch.episode_of == row).nonzero()[:, 0].tolist()
            queries = tuple(text(batch.queries.ids[query], batch.queries.mask[query]) for query in own)
            yield Asked(history, queries)
