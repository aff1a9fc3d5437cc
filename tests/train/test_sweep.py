"""Sweeps: what their files come to, and whole ones through the command line: failing, stopped and gone on with."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import recipe

from deltamem.cli.main import main
from deltamem.train.hf import EpisodeTrainer
from deltamem.train.recipefile import RecipeError, parse_recipe
from deltamem.train.run import run
from deltamem_lab.sweep.plan import Sweep, load_sweep
from deltamem_lab.sweep.report import sweep_table
from deltamem_lab.sweep.results import collect
from deltamem_lab.sweep.running import run_sweep

RECIPES = Path(__file__).parents[2] / "recipes"
HELD_OUT = {
    "data": {"source": "toy:episodes", "options": {"count": 12, "seed": 9}},
    "further": {"others": {"source": "toy:episodes", "options": {"count": 6, "seed": 10}}},
    "batch": 12,
}


def written(folder: Path, axes: Any, sections: Any = None, **options: Any) -> Path:
    values = recipe(folder / "runs", schedule={"steps": 3}, evaluation=HELD_OUT, **(sections or {}))
    path = folder / "a.yaml"
    path.write_text(yaml.safe_dump({**values, "sweep": {"axes": axes, **options}}), "utf-8")
    return path


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *map(str, arguments)])
    return int(ended.value.code or 0)


def names(sweep: Sweep) -> list[str]:
    return [point.name for point in sweep.points]


def test_one_axis_at_a_time_around_the_centre(tmp_path: Path) -> None:
    axes = {
        "adapter.rank": [2, 4, 8],
        "write": [
            {"label": "token", "adapter.write": "token"},
            {"label": "a message", "adapter.write": "message", "adapter.gate_bias": 1.0},
        ],
    }
    path = written(tmp_path, axes, seeds=[5, 6], seed_keys=["seed", "data.options.seed"])
    sweep = load_sweep(path)
    # The recipe's own rank and write strategy are the centre, which is trained once.
    assert names(sweep) == ["centre", "rank-2", "rank-8", "write-a-message"]
    assert [tuple(place[::2]) for place in sweep.points[0].places] == [("adapter.rank", "4"), ("write", "token")]
    adapters = [point.recipe.adapter for point in sweep.points]
    assert [(a.rank, a.write, a.gate_bias) for a in adapters] == [
        (4, "token", -1.5),
        (2, "token", -1.5),
        (8, "token", -1.5),
        (4, "message", 1.0),
    ]
    runs = sweep.runs()
    assert [(point.name, seed) for point, seed, _ in runs][3:5] == [("write-a-message", 5), ("centre", 6)]
    _, _, last = runs[-1]
    assert (last.seed, last.data.options["seed"]) == (6, 6)  # type: ignore[union-attr]
    assert last.output.folder == str(tmp_path / "runs" / "write-a-message" / "seed-6")


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    path = written(tmp_path, {"adapter.rank": [2, 4], "adapter.states": [1, 3]}, grid=True)
    sweep = load_sweep(path, ["adapter.alpha=7"], tmp_path / "elsewhere")
    assert names(sweep) == ["rank-2_states-1", "rank-2_states-3", "rank-4_states-1", "rank-4_states-3"]
    assert {point.recipe.adapter.alpha for point in sweep.points} == {7}
    assert sweep.folder == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"adapter.rnak": [2]}, {}, r"rnak-2 has unknown keys: adapter.rnak \(did you mean rank\?\)"),
        ({"adapter.rank": [0]}, {}, "rank must be a positive integer"),
        ({"adapter.rank": 2}, {}, r"sweep: axes.adapter.rank: Input should be a valid tuple"),
        ({"adapter.rank": []}, {}, r"sweep: axes.adapter.rank: Tuple should have at least 1 item"),
        ({}, {}, "sweep: axes"),
        ({"adapter.rank": [2]}, {"sedes": [1]}, r"sedes \(did you mean seeds\?\)"),
        ({"adapter.rank": [2]}, {"seeds": [-1]}, "greater than or equal to 0"),
        ({"adapter.rank": [2]}, {"seed_keys": ["sede"]}, r"sede \(did you mean seed\?\)"),
        ({"size": [{"adapter.rank": 2}]}, {}, "axis size has a mapping that is not a label and keys"),
        ({"size": [{"label": "small"}]}, {}, "axis size has a mapping that is not a label and keys"),
        ({"a.x": [{"label": 1, "seed": 3, "adapter.rank": 1}], "b.x": [{"label": 1, "adapter.rank": 2}]}, {}, "x-1"),
    ],
)
def test_a_wrong_sweep_names_the_key(tmp_path: Path, axes: Any, options: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_sweep(written(tmp_path, axes, **options)).runs()


def test_a_sweep_needs_its_section_and_something_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path)), "utf-8")
    with pytest.raises(RecipeError, match="has no section sweep"):
        load_sweep(path)
    path.write_text(yaml.safe_dump({**recipe(tmp_path), "sweep": {"axes": {"adapter.rank": [2]}}}), "utf-8")
    with pytest.raises(RecipeError, match=r"give evaluation.data or evaluation.held_out"):
        load_sweep(path)


def test_a_sweeps_adapters_are_not_pushed(tmp_path: Path) -> None:
    path = written(tmp_path, {"adapter.rank": [2]}, {"output": {"push_to_hub": "owner/name"}})
    assert {found.output.push_to_hub for _, _, found in load_sweep(path).runs()} == {None}


def test_the_repositorys_sweep() -> None:
    sweep = load_sweep(RECIPES / "sweep.yaml")
    rules = {point.recipe.adapter.update_rule for point in sweep.points}
    assert rules == {"standard", "lambda_outside", "no_lambda", "hebbian", "accumulate"}
    assert len(sweep.points) == 19
    for _, seed, found in sweep.runs():
        options = found.data.options  # type: ignore[union-attr]
        assert (options["steps"], options["seed"]) == (found.schedule.steps, seed)


def test_a_sweep_trains_tells_what_failed_and_tries_it_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    axes = {"adapter.rank": [2, 4], "layers": [{"label": "too many", "adapter.layers": "front:9"}]}
    path, folder = written(tmp_path, axes, seeds=[1, 2]), tmp_path / "runs"
    assert command(path) == 1
    out, err = capfd.readouterr()
    assert "layers-too-many, seed 2: ValueError: layers='front:9' asks for 9 of a backbone's 2 layers" in out
    assert "6 runs, 0 of them finished before" in err
    told = json.loads((folder / "sweep.json").read_text("utf-8"))
    centre, small, _ = told["points"]
    # A point is an ordinary run.
    values = recipe(tmp_path / "alone", schedule={"steps": 3}, evaluation=HELD_OUT, seed=2)
    measured = run(parse_recipe(values)).measured
    assert measured is not None
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text("utf-8"))
    assert measured.metrics().items() <= centre["runs"]["2"].items()
    assert centre["runs"]["2"]["recall, others"] == alone["further"]["others"]["recall"]
    assert alone["further"]["others"]["queries"] == 6
    assert (centre["runs"]["1"]["state_bytes"], small["runs"]["1"]["state_bytes"]) == (2 * 4 * 4 * 4, 2 * 2 * 2 * 4)
    losses = [centre["runs"][seed]["own_loss"] for seed in ("1", "2")]
    interval = centre["intervals"]["own_loss"]
    assert interval["value"] == pytest.approx(sum(losses) / 2)
    assert interval["low"] < min(losses) < max(losses) < interval["high"]
    table = (folder / "sweep.md").read_text("utf-8")
    assert f"| 4 * | {sum(run['recall'] for run in centre['runs'].values()) / 2:.3f} ± " in table
    assert "| too many | – | – |" in table
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "Traceback" in (folder / "layers-too-many" / "seed-1" / "error.txt").read_text("utf-8")

    before = (folder / "centre" / "seed-1" / "metrics.json").stat().st_mtime_ns
    assert command(path) == 1
    _, err = capfd.readouterr()
    assert "6 runs, 4 of them finished before" in err
    assert (folder / "centre" / "seed-1" / "metrics.json").stat().st_mtime_ns == before
    # Another recipe in the same folders is refused, run by run, and the old numbers do not pass for its own.
    assert command(path, "adapter.alpha=5", "sweep.seeds=[1]", "sweep.axes={adapter.rank: [2]}") == 1
    out, _ = capfd.readouterr()
    assert "rank-2, seed 1: ValueError: The run in" in out
    assert "different: adapter" in out


def test_a_stopped_sweep_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, stock = written(tmp_path, {"adapter.rank": [2]}), EpisodeTrainer.compute_loss

    def interrupted(self: EpisodeTrainer, *arguments: Any, **keywords: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(EpisodeTrainer, "compute_loss", stock)
        return stock(self, *arguments, **keywords)

    monkeypatch.setattr(EpisodeTrainer, "compute_loss", interrupted)
    assert command(path) == 128 + signal.SIGTERM
    assert "Run the same command to continue." in capfd.readouterr().out
    assert not (tmp_path / "runs" / "rank-2").exists()
    sweep = load_sweep(path)
    assert run_sweep(sweep) == 0
    results = collect(sweep)
    assert not results.missing
    history = json.loads((tmp_path / "runs" / "centre" / "seed-0" / "history.json").read_text("utf-8"))
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3]
    # One seed: a mean, and no interval.
    assert all(math.isnan(interval.low) for found in results.points for interval in found.intervals.values())
    assert "one seed, hence no intervals" in sweep_table(results)


def test_several_at_a_time_and_one_of_them_dies(tmp_path: Path) -> None:
    death = {"label": "dies", "backbone.factory": {"source": "os:_exit", "options": {"status": 3}}}
    sweep = load_sweep(written(tmp_path, {"backbone": [death]}))
    assert run_sweep(sweep, jobs=2) == 0
    results = collect(sweep)
    assert results.missing == {"backbone-dies, seed 0": "Its process ended with status 3."}
    assert results.points[0].first("steps") == 3
    assert "step 3/3" in (tmp_path / "runs" / "centre" / "seed-0" / "output.txt").read_text("utf-8")


def test_a_launcher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it without a launcher"):
        run_sweep(load_sweep(written(tmp_path, {"adapter.rank": [2]})))


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(written(tmp_path, {"adapter.rank": [2]}, seeds=[0, 1, 2]), "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["rank-2", "772", "parameters", "32", "bytes", "of", "state", "3", "steps", "×", "3"]
    assert lines[-1] == f"6 runs in {tmp_path / 'runs'}"
    assert not (tmp_path / "runs").exists()
