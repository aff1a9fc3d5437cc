"""What the baselines' commands share: a recipe's backbone and data, as texts with the history before the question."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem.extensions import from_extra

if TYPE_CHECKING:
    from deltamem.train.recipe import Recipe
    from deltamem_lab.methods.training import TokenRows

RecipeFile = Annotated[Path, typer.Argument(help="The adapter's recipe, a YAML file.")]
RecipeChanges = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as schedule.steps=100.")
]
_RECORD_FILE = "training.json"


@dataclass(frozen=True)
class Training:
    """What a recipe, a file with changes, says of the backbone and the data, loaded."""

    file: Path
    changes: Sequence[str]
    recipe: "Recipe"
    model: Any
    tokenizer: Any
    dataset: Any
    steps: int

    @property
    def base(self) -> str:
        """The backbone's Hub id or folder; empty where a factory makes it."""
        return str(self.recipe.backbone.model or "")

    def checkpoint_activations(self) -> None:
        """Has the model compute its activations again on the way back, if the recipe says so."""
        if self.recipe.optimiser.gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            self.model.train()

    def updates(self, reserve: int = 0) -> Iterator[list["TokenRows"]]:
        """The queries of each update, a pass for each micro-batch; of the positions ``reserve`` are left free."""
        from rich.console import Console
        from rich.progress import track

        from deltamem.observe import positions
        from deltamem.train.episodes import EpisodeBatch
        from deltamem.train.hf import as_batch
        from deltamem.train.loading import pad_id
        from deltamem.train.views import full_texts
        from deltamem_lab.methods.training import TokenRows, shuffled

        dataset, padding = self.dataset, pad_id(self.tokenizer)
        most = positions(self.model)
        room = None if most is None else most - reserve
        # Ready batches are in the order in which training is meant to meet them.
        ready = isinstance(dataset[0], EpisodeBatch)
        places = cycle(range(len(dataset))) if ready else shuffled(len(dataset), self.recipe.seed)
        size, micro = self.recipe.schedule.batch, self.recipe.schedule.micro_batch
        for _ in track(range(self.steps), "Training", console=Console(stderr=True), transient=True):
            items = [dataset[next(places)] for _ in range(size)]
            parts = [items[start : start + micro] for start in range(0, size, micro)]
            texts = [full_texts(as_batch(part, padding), room) for part in parts]
            yield [TokenRows(text.ids, text.weights) for text in texts]

    def write_record(self, folder: Path, **made: Any) -> None:
        """Writes beside the weights what they were trained with."""
        from deltamem.files import write_json

        write_json(folder / _RECORD_FILE, {"recipe": str(self.file), "changes": list(self.changes), **made})


def prepare(recipe: Path, changes: Sequence[str] | None) -> Training:
    """Loads what a recipe names.

    Raises:
        ImportError: what training needs is not installed; the message names the extra.
        ValueError: the recipe or its data is bad; the message says what.
    """
    with from_extra("train", "Training needs {}"):
        from deltamem.train.recipefile import load_recipe
    import torch

    from deltamem.models.loading import quiet_transformers
    from deltamem.train.loading import load_backbone, load_data

    quiet_transformers()
    changes = changes or ()
    checked = load_recipe(recipe, changes)
    model: Any
    model, tokenizer = load_backbone(checked.backbone)
    # What is trained is put on it.
    model.requires_grad_(False)
    dataset: Any = load_data(checked, tokenizer, progress=True)[0]
    schedule = checked.schedule
    steps = schedule.steps or math.ceil((schedule.epochs or 1) * math.ceil(len(dataset) / schedule.batch))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Training(recipe, changes, checked, model, tokenizer, dataset, steps)
