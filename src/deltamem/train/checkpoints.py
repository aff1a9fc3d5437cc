"""The checkpoints of a run's folder, and whether a recipe may continue from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deltamem.train.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
CONTROL = "control"
METRICS_FILE = "metrics.json"
PROGRESS_FILE = "progress.json"
DATA_FILE = "data.json"
# What may change between a stop and going on.
_FREE = ("logging", "output", "auto")


def last_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of a folder that has the most steps, if there is one."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def seconds_spent(folder: Path) -> float:
    """How long the run in a folder had taken at its last checkpoint, the control's if there is none yet; else 0."""
    checkpoint = last_checkpoint(folder) or last_checkpoint(folder / CONTROL)
    return float(json.loads((checkpoint / PROGRESS_FILE).read_text("utf-8"))["seconds"]) if checkpoint else 0.0


def check_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """Refuses to write over a run, and to continue from one of another recipe.

    Raises:
        ValueError: the folder holds a run and ``resume`` is false, or one that differs; the message says in what.
    """
    if not resume:
        if any(last_checkpoint(path) or (path / METRICS_FILE).exists() for path in (folder, folder / CONTROL)):
            raise ValueError(
                f"{folder} holds a run already. Continue it with --resume, or choose another output.folder."
            )
        return
    if not (folder / RECIPE_FILE).exists():
        raise ValueError(f"{folder} holds no run to resume; leave --resume out.")
    saved = yaml.safe_load((folder / RECIPE_FILE).read_text("utf-8"))
    now = recipe.model_dump(mode="json", exclude_none=True)
    changed = sorted(key for key in {*saved, *now} if key not in _FREE and saved.get(key) != now.get(key))
    if changed:
        raise ValueError(
            f"The run in {folder} was started with another recipe (different: {', '.join(changed)}), so it cannot "
            f"reach the same result. Use its own recipe, {folder / RECIPE_FILE}, or another output.folder."
        )


def check_data(folder: Path, datasets: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Refuses to go on with other data than a run was started with, wherever the data lies.

    Args:
        folder: the run's.
        datasets: the datasets by the part of the recipe that they are of. Those that a function makes have no digest,
            and are taken as they are.
        resume: whether a run is to be continued.

    Returns:
        what :data:`DATA_FILE` is to hold.

    Raises:
        ValueError: the data is other than it was; the message says which.
    """
    now = {name: getattr(dataset, "digest", None) for name, dataset in datasets.items()}
    path = folder / DATA_FILE
    if resume and path.exists():
        before = json.loads(path.read_text("utf-8"))
        changed = sorted(name for name in now if name in before and before[name] != now[name])
        if changed:
            raise ValueError(
                f"The data of the run in {folder} has changed since it started (other lines: {', '.join(changed)}), "
                "so it cannot reach the same result. Restore the data, or choose another output.folder."
            )
    return now
