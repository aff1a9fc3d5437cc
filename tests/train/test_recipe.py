"""Recipes: what is refused and how, overrides and bases."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import recipe

from deltamem.train.loading import load_data
from deltamem.train.recipefile import RecipeError, load_recipe, parse_recipe, save_recipe
from deltamem.train.run import run

RECIPES = Path(__file__).parents[2] / "recipes"


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("schedul", {"steps": 3}, r"schedul \(did you mean schedule\?\)"),
        ("adapter", {"rnak": 8}, r"adapter.rnak \(did you mean rank\?\)"),
        ("optimiser", {"lerning_rate": 1}, r"optimiser.lerning_rate \(did you mean learning_rate\?\)"),
        ("objective", {"sparsty": 1}, r"objective.sparsty \(did you mean sparsity\?\)"),
        ("objective", {"writing": {"chunks": 1}}, r"objective.writing.chunks \(did you mean chunk\?\)"),
        ("data", {"sorce": "a:b"}, r"data.sorce \(did you mean source\?\)"),
        ("evaluation", {"qqq": 1}, r"evaluation.qqq \(known: data, held_out"),
        ("adapter", {"rank": 0}, "adapter: rank"),
        ("optimiser", {"learning_rate": "fast"}, r"optimiser.learning_rate: .*\('fast'\)"),
        ("schedule", {"epochs": 1}, "give either epochs or steps"),
        ("schedule", {"batch": 9}, "multiple of micro_batch"),
        ("evaluation", {"control": True}, "nothing held out"),
        ("evaluation", {"further": {"long": {"source": "toy:episodes"}}}, "nothing held out"),
        ("evaluation", {"further": {"a": {"source": "a:b", "optons": {}}}}, r"a.optons \(did you mean options\?\)"),
        ("evaluation", {"held_out": 4, "metric": "memory_share"}, r"evaluation.metric: .*'own_loss' or 'recall'"),
        ("evaluation", {"held_out": 4, "patience": 2}, "give every"),
        ("backbone", {"model": "a/b"}, "give either model"),
        ("adapter", {"gates": "fixed", "coupled_gates": False}, "coupled_gates.* true"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path: Path, section: str, change: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe(tmp_path, **{section: change}))


def test_another_rows_memory_needs_another_row(tmp_path: Path) -> None:
    values = recipe(tmp_path, objective={"contrast_other": 1.0}, schedule={"micro_batch": 1})
    values["data"] = {"path": "chats.jsonl"}
    with pytest.raises(RecipeError, match=r"give schedule\.micro_batch: 2 or more"):
        parse_recipe(values)
    made = recipe(tmp_path, objective={"contrast_other": 1.0}, schedule={"micro_batch": 1})
    with pytest.raises(ValueError, match="the data's have one"):
        load_data(parse_recipe(made), None, progress=False)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"data": {"source": "toy:episods"}}, ValueError, "There is no toy:episods"),
        ({"backbone": {"factory": {"source": "toys:backbone"}}}, ValueError, "There is no toys:backbone"),
        ({"evaluation": {"held_out": 2, "further": {"a": {"path": "none.jsonl"}}}}, ValueError, "none.jsonl: no such"),
        ({"logging": {"report_to": ["trackio"]}}, ImportError, "trackio, which is not installed: pip install trackio"),
    ],
)
def test_what_is_missing_is_known_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("toy.backbone", lambda: pytest.fail("The backbone was loaded."))
    with pytest.raises(error, match=message):
        run(parse_recipe(recipe(tmp_path / "run", **sections)))
    assert not (tmp_path / "run").exists()


def test_fixed_gates_have_nothing_that_sparsity_could_train(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="gates: fixed has none to train"):
        parse_recipe(recipe(tmp_path, adapter={"gates": "fixed"}, objective={"sparsity": 0.01}))


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"schedule.kind.*output.keep"):
        parse_recipe(recipe(tmp_path, schedule={"kind": "steps"}, output={"keep": 0}))


def test_files_of_chats_and_factories_are_told_apart(tmp_path: Path) -> None:
    values = recipe(tmp_path)
    values["data"] = {"path": "chats.jsonl", "write_tokens": 99}
    assert parse_recipe(values).data.write_tokens == 99  # type: ignore[union-attr]
    values["data"] = {"path": "chats.jsonl", "write_token": 99}
    with pytest.raises(RecipeError, match=r"data.write_token \(did you mean write_tokens\?\)"):
        parse_recipe(values)
    values["data"] = {"path": "chats.jsonl", "hub": "a/b"}
    with pytest.raises(RecipeError, match=r"either path .* or hub"):
        parse_recipe(values)


def test_changes_from_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", recipe(tmp_path))
    found = load_recipe(
        path, ["schedule.steps=3", "optimiser.learning_rate=2e-4", "adapter.heads=[q, v]", "evaluation.held_out=2"]
    )
    assert found.schedule.steps == 3
    assert found.optimiser.learning_rate == 2e-4
    assert found.adapter.heads == ("q", "v")
    assert found.evaluation.held_out == 2
    for change, message in [
        ("steps", "write key=value"),
        ("a=[", "not valid YAML"),
        ("schedule.stepps=1", "mean steps"),
    ]:
        with pytest.raises(RecipeError, match=message):
            load_recipe(path, [change])


def test_a_recipe_extends_another_and_its_own_values_win(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "base.yaml", recipe(tmp_path))
    path = write(tmp_path / "below" / "a.yaml", {"extends": "../base.yaml", "schedule": {"steps": 5}})
    found = load_recipe(path)
    assert (found.schedule.steps, found.schedule.batch, found.adapter.rank) == (5, 8, 4)
    write(tmp_path / "base.yaml", {"extends": "below/a.yaml"})
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "must hold keys"),
        (None, "Cannot read the recipe"),
        ("seed: 1\nadapter: {rank: 4, states: 2, rank: 8}", "not valid YAML: the key rank is given twice.*line 2"),
        ("extends: [a.yaml]", r"extends \['a.yaml'\]; give the path of one"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "a.yaml")


def test_a_saved_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    first = load_recipe(RECIPES / "small-gpu.yaml")
    save_recipe(first, tmp_path / "a.yaml")
    assert load_recipe(tmp_path / "a.yaml") == first
