"""``--auto-size``: which sizes are tried, which is taken, and the training that follows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import recipe

from deltamem.cli.main import main
from deltamem.train.recipe import Recipe
from deltamem.train.recipefile import RecipeError, load_recipe, parse_recipe
from deltamem_lab.sweep.results import PointResults, Results
from deltamem_lab.sweep.sizing import choose_size, plan_sizes

HELD_OUT = {"data": {"source": "toy:episodes", "options": {"count": 12, "seed": 9}}, "batch": 12}


def sized(folder: Path, **sections: Any) -> Recipe:
    auto = {"ranks": [8, 2], "states": [1, 2], "margin": 0.05, **sections.pop("auto", {})}
    values = recipe(folder, evaluation=HELD_OUT, auto=auto, schedule={"steps": 10})
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_recipe(values)


def results(found: Recipe, values: dict[str, float]) -> Results:
    """What short runs would have come to, with this value of the metric for each point."""
    sweep = plan_sizes(found)
    points = []
    for point in sweep.points:
        numbers = {"state_bytes": point.recipe.adapter.states * point.recipe.adapter.rank**2, "parameters": 1}
        runs = {0: {found.auto.metric: values[point.name], **numbers}} if point.name in values else {}
        points.append(PointResults(point, runs, {} if runs else {0: "it broke"}, {}))
    return Results(sweep, tuple(points), "a machine")


def test_every_size_has_a_short_run_and_the_recipes_gain(tmp_path: Path) -> None:
    changes = {"data.options.count": 16}
    sweep = plan_sizes(sized(tmp_path, auto={"share": 0.3, "changes": changes}))
    adapters = [point.recipe.adapter for point in sweep.points]
    assert [(a.rank, a.states, a.alpha) for a in adapters] == [(2, 1, 2), (2, 2, 2), (8, 1, 8), (8, 2, 8)]
    assert {point.recipe.schedule.steps for point in sweep.points} == {3}
    assert {point.recipe.data.options["count"] for point in sweep.points} == {16}  # type: ignore[union-attr]
    folders = [found.output.folder for _, _, found in sweep.runs()]
    assert folders[0] == str(tmp_path / "sizes" / "rank-2_states-1" / "seed-1")
    assert {found.seed for _, _, found in sweep.runs()} == {1}


def test_a_run_by_epochs_is_shortened_too(tmp_path: Path) -> None:
    values = recipe(tmp_path, evaluation=HELD_OUT, auto={"ranks": [4], "states": [1]})
    values["schedule"] = {"epochs": 2, "batch": 8}
    (point,) = plan_sizes(parse_recipe(values)).points
    assert point.recipe.schedule.epochs == 0.5


@pytest.mark.parametrize(
    ("metric", "values", "chosen"),
    [
        ("recall", [0.50, 0.60, 0.60, 0.64], (2, 2)),
        ("recall", [0.60, 0.50, 0.50, 0.64], (2, 1)),
        ("recall", [0.10, 0.10, 0.58, 0.64], (8, 2)),
        ("own_loss", [1.30, 1.22, 1.20, 1.21], (2, 2)),
        ("own_loss", [1.30, 1.30, 1.20, 1.00], (8, 2)),
    ],
)
def test_the_smallest_within_the_margin_is_taken(
    tmp_path: Path, metric: str, values: list[float], chosen: tuple[int, int]
) -> None:
    found = sized(tmp_path, auto={"metric": metric})
    names = ["rank-2_states-1", "rank-2_states-2", "rank-8_states-1", "rank-8_states-2"]
    choice = choose_size(found, results(found, dict(zip(names, values, strict=True))))
    adapter = choice.recipe.adapter
    assert (adapter.rank, adapter.states) == chosen
    assert math.isclose(adapter.alpha / adapter.rank, found.adapter.alpha / found.adapter.rank)
    assert f"rank-{chosen[0]}_states-{chosen[1]} is the smallest whose {metric}" in choice.reason
    assert choice.recipe.schedule == found.schedule


def test_sizes_that_cannot_be_told_apart_are_no_choice(tmp_path: Path) -> None:
    found = sized(tmp_path, auto={"metric": "recall"})
    names = ["rank-2_states-1", "rank-2_states-2", "rank-8_states-1", "rank-8_states-2"]
    choice = choose_size(found, results(found, dict.fromkeys(names, 0.0)))
    assert (choice.recipe.adapter.rank, choice.recipe.adapter.states) == (2, 1)
    assert choice.reason.startswith(
        "Warning: all 4 sizes have the same recall (0.000), so the runs say nothing of size"
    )


def test_a_size_without_numbers_is_passed_over(tmp_path: Path) -> None:
    found = sized(tmp_path)
    choice = choose_size(found, results(found, {"rank-8_states-2": 1.0}))
    assert choice.recipe.adapter.rank == 8
    with pytest.raises(ValueError, match="No size could be trained: rank-2_states-1, seed 0: it broke"):
        choose_size(found, results(found, {}))


def test_what_cannot_be_sized_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"give evaluation.data or evaluation.held_out"):
        plan_sizes(parse_recipe(recipe(tmp_path)))
    with pytest.raises(RecipeError, match="which has a fixed size"):
        plan_sizes(sized(tmp_path, start="some/adapter"))
    for wrong in ({"ranks": []}, {"states": [0]}, {"share": 0}, {"rank": [4]}):
        with pytest.raises(RecipeError, match=f"auto.{next(iter(wrong))}"):
            sized(tmp_path, auto=wrong)


def test_the_command_sizes_and_then_trains(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = recipe(tmp_path / "run", evaluation=HELD_OUT, schedule={"steps": 4})
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values), "utf-8")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "train",
                str(tmp_path / "a.yaml"),
                "--auto-size",
                "auto={ranks: [1, 2], states: [1], margin: 0, share: 0.5}",
            ]
        )
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    runs = {rank: tmp_path / "run" / "sizes" / f"rank-{rank}_states-1" / "seed-1" for rank in (1, 2)}
    numbers = {rank: json.loads((folder / "metrics.json").read_text("utf-8")) for rank, folder in runs.items()}
    assert {found["steps"] for found in numbers.values()} == {2}
    best = max(numbers, key=lambda rank: (numbers[rank]["measured"]["recall"], -rank))
    told = "is the smallest whose recall" if numbers[best]["measured"]["recall"] else "was taken only because"
    assert f"rank-{best}_states-1 {told}" in err
    assert f"{tmp_path / 'run'}: 4 updates." in out
    trained = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (trained.adapter.rank, trained.schedule.steps) == (best, 4)
    table = (tmp_path / "run" / "sizes" / "sweep.md").read_text("utf-8")
    assert [line.split(" | ")[0] for line in table.splitlines()[-2:]] == ["| 1, 1", "| 2, 1"]
