"""A sweep's file, and the points it comes to: recipes around a centre that differ in what their axes say."""

import copy
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, NonNegativeInt

from deltamem.train.recipe import Recipe, Section
from deltamem.train.recipefile import RecipeError, parse_recipe, parse_section, read_values, set_value

CENTRE = "centre"
_SECTION, _LABEL = "sweep", "label"
# What may differ between recipes that train the same adapter.
_ASIDE = {"logging", "output", "seed", "auto"}


class SweepOptions(Section):
    """The section ``sweep`` of a sweep's file; the rest of the file is the recipe at the centre.

    Attributes:
        axes: by name, the values that an axis takes. A plain value is that of the recipe's key which the axis is named
            after. A mapping with a ``label`` changes several keys at once: its other keys are the recipe's.
        grid: train every combination of values; otherwise the centre, and from it one axis at a time.
        seeds: what each point is trained with, one after the other.
        seed_keys: the recipe's keys that take the seed.
    """

    axes: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    grid: bool = False
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    seed_keys: tuple[str, ...] = ("seed",)


class Place(NamedTuple):
    """Where a point is on an axis.

    Attributes:
        axis: its name.
        number: of the value, from 0 in the file's order.
        label: what the value is called.
    """

    axis: str
    number: int
    label: str


@dataclass(frozen=True)
class Point:
    """One adapter of a sweep.

    Attributes:
        name: of its folder.
        places: on the axes; several where values of two axes come to the same recipe.
        changes: how its recipe differs from the centre's, by key.
        recipe: its recipe, but for seed and folder.
    """

    name: str
    places: tuple[Place, ...]
    changes: dict[str, Any]
    recipe: Recipe


_Step = tuple[Place, dict[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """Points and seeds, and where their runs lie.

    Attributes:
        name: the file it came from.
        options: the file's section ``sweep``.
        points: what is trained, the centre first if there is one.
        folder: holds a folder a point, in it a run a seed.
    """

    name: str
    options: SweepOptions
    points: tuple[Point, ...]
    folder: Path

    def runs(self) -> list[tuple[Point, int, Recipe]]:
        """Every point with every seed and the recipe of that run; all points get a seed before the next seed's turn."""
        found = []
        for seed, point in itertools.product(self.options.seeds, self.points):
            values = point.recipe.model_dump(mode="json", exclude_none=True)
            for key in self.options.seed_keys:
                set_value(values, key, seed)
            set_value(values, "output.folder", str(self.folder / point.name / f"seed-{seed}"))
            found.append((point, seed, parse_recipe(values, f"{self.name}, {point.name}")))
        return found


def load_sweep(path: str | Path, overrides: Sequence[str] = (), folder: Path | None = None) -> Sweep:
    """Reads and checks a sweep's file, with the recipe of every point.

    Args:
        path: a YAML file: a recipe (it may extend one) with a section ``sweep``.
        overrides: changes of the centre or of the section, as for a recipe.
        folder: where the runs go; the recipe's ``output.folder`` by default.

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown, or a value or a point is impossible.
    """
    values, name = read_values(path, overrides), str(path)
    section = values.pop(_SECTION, None)
    if not isinstance(section, dict):
        raise RecipeError(f"{name} has no section sweep; give it axes: sweep: {{axes: {{adapter.rank: [4, 8]}}}}.")
    return plan_sweep(name, values, parse_section(section, SweepOptions, f"{name}, sweep"), folder)


def plan_sweep(name: str, values: dict[str, Any], options: SweepOptions, folder: Path | None = None) -> Sweep:
    """The points around a recipe.

    Raises:
        RecipeError: the recipe or a point is wrong, or holds nothing out to measure on.
    """
    centre = parse_recipe(values, name)
    if centre.evaluation.data is None and centre.evaluation.held_out is None:
        raise RecipeError(f"{name}: a sweep compares held-out episodes; give evaluation.data or evaluation.held_out.")
    axes = [[_step(axis, i, value, name) for i, value in enumerate(given)] for axis, given in options.axes.items()]
    combined = list(itertools.product(*axes)) if options.grid else [(), *((step,) for axis in axes for step in axis)]
    points: dict[str, Point] = {}
    for steps in combined:
        point = _point(name, values, steps)
        same = str(sorted(point.recipe.model_dump(mode="json", exclude=_ASIDE).items()))
        if same in points:
            point = replace(points[same], places=(*points[same].places, *point.places))
        points[same] = point
    names = [point.name for point in points.values()]
    if twice := sorted({found for found in names if names.count(found) > 1}):
        raise RecipeError(f"{name}: two different points are called {', '.join(twice)}; give them other labels.")
    return Sweep(name, options, tuple(points.values()), folder or Path(centre.output.folder))


def _step(axis: str, number: int, value: Any, name: str) -> _Step:
    """A value's place on its axis, and what it changes."""
    if not isinstance(value, dict):
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        return Place(axis, number, shown), {axis: value}
    changes = {key: new for key, new in value.items() if key != _LABEL}
    if _LABEL not in value or not changes:
        raise RecipeError(f"{name}: the axis {axis} has a mapping that is not a label and keys of the recipe: {value}.")
    return Place(axis, number, str(value[_LABEL])), changes


def _point(name: str, values: dict[str, Any], steps: tuple[_Step, ...]) -> Point:
    changed = copy.deepcopy(values)
    # A sweep's adapters are there to be measured, not to be published.
    set_value(changed, "output.push_to_hub", None)
    changes = {key: value for _, change in steps for key, value in change.items()}
    for key, value in changes.items():
        set_value(changed, key, value)
    places = tuple(place for place, _ in steps)
    called = "_".join(f"{place.axis.rpartition('.')[2]}-{place.label}" for place in places) or CENTRE
    folder = re.sub(r"[^\w.+-]+", "-", called)
    return Point(folder, places, changes, parse_recipe(changed, f"{name}, {called}"))
