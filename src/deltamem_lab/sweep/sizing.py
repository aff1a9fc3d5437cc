"""The smallest memory that is about as good as the best: what ``deltamem train --auto-size`` looks for."""

from dataclasses import dataclass, replace
from pathlib import Path

from deltamem.train.arguments import HIGHER_IS_BETTER
from deltamem.train.recipe import Recipe
from deltamem.train.recipefile import RecipeError, set_value
from deltamem_lab.sweep.plan import Sweep, SweepOptions, plan_sweep
from deltamem_lab.sweep.results import PointResults, Results

FOLDER = "sizes"


@dataclass(frozen=True)
class Choice:
    """A size and why it was taken."""

    recipe: Recipe
    reason: str


def plan_sizes(recipe: Recipe) -> Sweep:
    """The short runs that the section ``auto`` of a recipe asks for, in the folder ``sizes`` of its own.

    Raises:
        RecipeError: nothing is held out to measure on, a size or a change is impossible, or the recipe continues from a
            finished adapter, whose size is fixed.
    """
    if recipe.start is not None:
        raise RecipeError(f"The recipe starts from {recipe.start}, which has a fixed size; leave --auto-size out.")
    auto, values = recipe.auto, recipe.model_dump(mode="json", exclude_none=True)
    schedule = values["schedule"]
    if "steps" in schedule:
        schedule["steps"] = max(1, round(schedule["steps"] * auto.share))
    else:
        schedule["epochs"] *= auto.share
    gain = recipe.adapter.alpha / recipe.adapter.rank
    for key, value in auto.changes.items():
        set_value(values, key, value)
    ranks = [{"label": rank, "adapter.rank": rank, "adapter.alpha": gain * rank} for rank in sorted(set(auto.ranks))]
    axes = {"rank": tuple(ranks), "adapter.states": tuple(sorted(set(auto.states)))}
    options = SweepOptions(axes=axes, grid=True, seeds=(recipe.seed,))
    return plan_sweep("sizes", values, options, Path(recipe.output.folder) / FOLDER)


def choose_size(recipe: Recipe, results: Results) -> Choice:
    """The smallest size by its bytes of state that is within the margin of the best, and the recipe with it.

    Raises:
        ValueError: no run has numbers.
    """
    metric, margin = recipe.auto.metric, recipe.auto.margin
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    known = [(found, sign * value) for found in results.points if (value := found.first(metric)) is not None]
    if not known:
        reasons = "; ".join(f"{run}: {why}" for run, why in results.missing.items())
        raise ValueError(f"No size could be trained: {reasons}")
    best = max(value for _, value in known)
    chosen = min((found for found, value in known if value >= best - margin), key=_size)
    size = chosen.point.recipe.adapter
    adapter = replace(recipe.adapter, rank=size.rank, states=size.states, alpha=size.alpha)
    if len(known) > 1 and len({value for _, value in known}) == 1:
        reason = (
            f"Warning: all {len(known)} sizes have the same {metric} ({sign * best:.3f}), so the runs say nothing of "
            f"size; {chosen.point.name} was taken only because it is the smallest. Train longer (auto.share), or "
            "choose by another auto.metric, such as own_loss."
        )
    else:
        reason = (
            f"{chosen.point.name} is the smallest whose {metric} ({chosen.first(metric):.3f}) is within {margin:g} of "
            f"the best ({sign * best:.3f})."
        )
    return Choice(recipe.model_copy(update={"adapter": adapter}), reason)


def _size(found: PointResults) -> tuple[float, float]:
    return found.first("state_bytes") or 0.0, found.first("parameters") or 0.0
