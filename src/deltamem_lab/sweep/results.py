"""What came of a sweep: the numbers of its runs, read from their folders, with intervals over seeds."""

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from deltamem.train.checkpoints import METRICS_FILE
from deltamem.train.recipe import Recipe
from deltamem_lab.statistics import Interval, student
from deltamem_lab.sweep.plan import Point, Sweep
from deltamem_lab.sweep.running import ERROR_FILE, finished

# What the tables tell of each point, if it was measured; the further held-out episodes come after recall.
MEASURES = ("recall", "own_loss", "static_loss", "memory_share")
_FURTHER = "recall, "


@dataclass(frozen=True)
class PointResults:
    """What is known of a point.

    Attributes:
        point: which.
        runs: the numbers of each finished seed, by name: all that was measured, ``recall, NAME`` of further held-out
            episodes, ``parameters``, ``state_bytes``, ``steps`` and ``seconds``.
        missing: why the others have none.
        intervals: of each measure over the seeds.
    """

    point: Point
    runs: Mapping[int, Mapping[str, float]]
    missing: Mapping[int, str]
    intervals: Mapping[str, Interval]

    def first(self, name: str) -> float | None:
        """A number of the first finished seed that has it, for what depends on no seed; ``None`` without one."""
        return next((run[name] for run in self.runs.values() if name in run), None)

    @property
    def seconds(self) -> float | None:
        """The mean time of a run, in seconds."""
        times = [run["seconds"] for run in self.runs.values()]
        return sum(times) / len(times) if times else None


@dataclass(frozen=True)
class Results:
    """What is known of a sweep so far."""

    sweep: Sweep
    points: tuple[PointResults, ...]
    machine: str

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that there are."""
        names = {name: None for found in self.points for run in found.runs.values() for name in run}
        further = [name for name in names if name.startswith(_FURTHER)]
        return tuple(name for name in (MEASURES[0], *further, *MEASURES[1:]) if name in names)

    @property
    def missing(self) -> dict[str, str]:
        """Why runs have no numbers, by run."""
        return {f"{p.point.name}, seed {seed}": why for p in self.points for seed, why in p.missing.items()}

    def axes(self) -> dict[str, list[tuple[str, PointResults]]]:
        """The points by axis with the labels they have there, in the file's order; of a grid all under one heading."""
        axes = self.sweep.options.axes
        if self.sweep.options.grid:
            places = ((found.point.places[: len(axes)], found) for found in self.points)
            return {" × ".join(axes): [(", ".join(place.label for place in whole), found) for whole, found in places]}
        ordered = sorted(
            ((place, found) for found in self.points for place in found.point.places), key=lambda pair: pair[0].number
        )
        return {axis: [(place.label, found) for place, found in ordered if place.axis == axis] for axis in axes}


def collect(sweep: Sweep) -> Results:
    """Reads what is finished of a sweep.

    Raises:
        OSError: a finished run's numbers cannot be read.
    """
    runs: dict[str, dict[int, dict[str, float]]] = {point.name: {} for point in sweep.points}
    missing: dict[str, dict[int, str]] = {point.name: {} for point in sweep.points}
    for point, seed, recipe in sweep.runs():
        if finished(recipe):
            runs[point.name][seed] = _numbers(recipe)
        else:
            missing[point.name][seed] = _why(recipe)
    intervals = _intervals(runs)
    points = tuple(
        PointResults(point, runs[point.name], missing[point.name], intervals[point.name]) for point in sweep.points
    )
    return Results(sweep, points, f"{platform.machine()}, {platform.system()}, torch {torch.__version__}")


def as_data(results: Results) -> dict[str, Any]:
    """What is known of a sweep as values for JSON."""
    sweep = results.sweep
    return {
        "sweep": sweep.name,
        "seeds": sweep.options.seeds,
        "grid": sweep.options.grid,
        "machine": results.machine,
        "points": [_described(found) for found in results.points],
    }


def _described(found: PointResults) -> dict[str, Any]:
    return {
        "name": found.point.name,
        "places": [{"axis": place.axis, "label": place.label} for place in found.point.places],
        "changes": found.point.changes,
        "runs": found.runs,
        "missing": found.missing,
        "intervals": {name: _finite(interval) for name, interval in found.intervals.items()},
    }


def _finite(interval: Interval) -> dict[str, float | None]:
    ends = dataclasses.asdict(interval)
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}


def _numbers(recipe: Recipe) -> dict[str, float]:
    written = json.loads((Path(recipe.output.folder) / METRICS_FILE).read_text("utf-8"))
    further = {f"{_FURTHER}{name}": found["recall"] for name, found in written["further"].items()}
    counts = {name: written[name] for name in ("state_bytes", "steps", "seconds")}
    return {**written["measured"], **further, "parameters": written["trainable_parameters"], **counts}


def _why(recipe: Recipe) -> str:
    error = Path(recipe.output.folder) / ERROR_FILE
    return error.read_text("utf-8").splitlines()[0] if error.exists() else "not finished"


def _intervals(runs: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, dict[str, Interval]]:
    """The intervals of each point by measure."""
    found: dict[str, dict[str, Interval]] = {point: {} for point in runs}
    measures = {name for of_point in runs.values() for run in of_point.values() for name in run if _is_measure(name)}
    for name in sorted(measures):
        values = {point: [run[name] for run in of_point.values() if name in run] for point, of_point in runs.items()}
        for point, interval in over_seeds(values).items():
            if name.startswith(MEASURES[0]) and math.isfinite(interval.low):
                interval = Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high))
            found[point][name] = interval
    return found


def _is_measure(name: str) -> bool:
    """Whether a run's number is a measure of its adapter, and not a count."""
    return name in MEASURES or name.startswith(_FURTHER)


def over_seeds(values: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """The mean of each point and its 95 % interval over seeds.

    Two seeds say next to nothing about the spread of their own point. So one variance is taken for all points, pooled
    from all of them, as in an analysis of variance: an interval is the mean ± t s / √n, with as many degrees of
    freedom as there are seeds beyond the first of each point.

    Returns:
        the interval of each point; not-a-number for its ends where no point has two seeds.
    """
    known = {name: given for name, given in values.items() if given}
    freedom = sum(len(given) - 1 for given in known.values())
    if not freedom:
        return {name: Interval(fmean(given), math.nan, math.nan) for name, given in known.items()}
    squares = sum((value - fmean(given)) ** 2 for given in known.values() for value in given)
    spread = student(freedom) * math.sqrt(squares / freedom)
    found = {}
    for name, given in known.items():
        mean, half = fmean(given), spread / math.sqrt(len(given))
        found[name] = Interval(mean, mean - half, mean + half)
    return found
