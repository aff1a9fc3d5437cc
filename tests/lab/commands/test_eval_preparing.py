"""What the embedded suite trains first: once, by its own commands, on from where it was stopped."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import typer
import yaml

from deltamem.cli.main import build_app, main
from deltamem.demo import adapters as demo
from deltamem.demo.adapters import COURSES, Which
from deltamem.extensions import how_to_install
from deltamem.train.recipefile import load_recipe
from deltamem_lab.commands.evaluation.arguments import choose_suite
from deltamem_lab.commands.evaluation.planning import choose_methods
from deltamem_lab.commands.evaluation.preparing import Preparation, find_preparation, train
from deltamem_lab.commands.evaluation.recipe import EvalRecipe, TaskSection
from deltamem_lab.loading import embedded_backbone
from deltamem_lab.methods import MethodOptions
from deltamem_lab.suites import SUITES, TRAININGS, SuiteTraining

SUITE = SUITES["embedded"]
BY_NAME = {one.name: one for one in TRAININGS}


def shorter(training: SuiteTraining) -> SuiteTraining:
    """The same training with two small updates."""

    make = training.recipe
    if make is None:
        return training

    def recipe(folder: Path) -> str:
        values = yaml.safe_load(make(folder))
        values["schedule"]["steps"] = 2
        values["data"]["options"] |= {"steps": 2, "episodes": 4, "max_facts": 2}
        values["evaluation"]["data"]["options"] = {"dialogues": 2, "facts": 2}
        return yaml.safe_dump(values)

    return dataclasses.replace(training, recipe=recipe)


SHORT = tuple(map(shorter, TRAININGS))
NEEDY = (dataclasses.replace(BY_NAME["lora"], needs=(("no_such_package", "lora"),)),)


def in_process(commands: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Runs commands here."""
    return {name: _exit_status(arguments) for name, arguments in commands.items()}


def _exit_status(arguments: Sequence[str]) -> int:
    assert arguments[0] == "deltamem"
    with pytest.raises(SystemExit) as left:
        main(list(arguments[1:]))
    return int(left.value.code or 0)


def find(output: Path, *methods: str, adapters: Sequence[str] = (), train: bool = True) -> Preparation:
    suite = dataclasses.replace(SUITE, trainings=SHORT)
    return find_preparation(suite, EvalRecipe(output=output, methods=methods, adapters=tuple(adapters), train=train))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a LoRA that two updates made."""
    output = tmp_path_factory.mktemp("run")
    done = train(find(output, "context2lora"), run=in_process)
    assert (done.left, [one.method for one in done.there]) == ((), ["context2lora"])
    return output


@pytest.mark.parametrize("training", [one for one in TRAININGS if one.recipe], ids=lambda one: one.name)
def test_a_training_is_a_command_with_a_recipe(training: SuiteTraining, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    assert training.recipe is not None
    path.write_text(training.recipe(tmp_path), "utf-8")
    recipe = load_recipe(path)
    assert str(recipe.schedule.steps) in training.about or training.method in ("mlp_memory", "compression")
    assert training.seconds <= 300
    module, *arguments = [part.format(recipe=path, folder=tmp_path) for part in training.command]
    assert module == "deltamem"
    command = typer.main.get_command(build_app())
    while arguments[0] in getattr(command, "commands", {}):
        command = command.commands[arguments.pop(0)]  # type: ignore[attr-defined]
    context = command.make_context("command", arguments)
    assert context.params["recipe"] == path


@pytest.mark.parametrize("which", COURSES)
def test_the_static_control_of_an_adapter_is_trained_as_it_was(
    which: Which, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command trains the adapter's own course with the adapter's seed, on strangers' memories."""
    training = BY_NAME["static" if which == "multi" else f"static-{which}"]
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(demo, "train", lambda *given, **named: called.append((*given, named["seed"], named["control"])))
    module, *arguments = [part.format(recipe="", folder=tmp_path) for part in training.command]
    assert module == demo.__name__
    monkeypatch.setattr("sys.argv", [module, *arguments])
    threads = torch.get_num_threads()
    demo.main()
    torch.set_num_threads(threads)
    assert called == [(COURSES[which], tmp_path / "stages", tmp_path, 0, True)]
    assert f"{sum(stage.steps for stage in COURSES[which].stages):,} updates" in training.about


def test_what_is_trained_is_not_trained_again(trained: Path) -> None:
    again = find(trained, "context2lora", "none")
    assert again.left == ()
    assert again.adapters == [f"lora={trained / 'trained' / 'lora'}"]
    record = json.loads((trained / "trained" / "lora" / "training.json").read_text("utf-8"))
    assert len(record["losses"]) == 2
    assert (trained / "trained" / "lora" / "adapter_model.safetensors").is_file()


def test_all_that_is_left_is_told_before(tmp_path: Path, trained: Path) -> None:
    everything = list(find(tmp_path).told())
    assert len(everything) == 1 + len(TRAININGS)
    assert "--no-train" in everything[0]
    assert "idle core" in everything[0]
    assert len(list(find(trained).told())) == len(TRAININGS)
    assert list(find(trained, "none", "context2lora").told()) == []


def test_nothing_is_trained_that_was_given_or_is_not_wanted(tmp_path: Path) -> None:
    given = find(tmp_path, adapters=["lora=somewhere"])
    assert "lora" not in [one.name for one in given.left]
    assert "context2lora" not in given.absent
    assert find(tmp_path, "none", "multi").left == ()
    assert choose_suite("embedded", {}, has_model=True).trainings == ()
    assert [one.name for one in find(tmp_path, "empty:static").left] == ["static"]
    assert [one.name for one in find(tmp_path, "static-token").left] == ["static-token"]
    own = find_preparation(SUITE, EvalRecipe(output=tmp_path, static_adapters=("here", "token=there")))
    assert {one.name for one in own.left}.isdisjoint({"static", "static-token"})
    assert own.statics == ["here", "token=there"]
    without = find(tmp_path, train=False)
    assert without.left == ()
    assert set(without.absent) == {one.method for one in TRAININGS}
    assert "--no-train" in without.absent["static"]


def test_a_classifier_that_was_given_or_trained_compresses(tmp_path: Path) -> None:
    assert [one.name for one in find(tmp_path, "compression").left] == ["compression"]
    given = find_preparation(SUITE, EvalRecipe(output=tmp_path, methods=("compression",), compressor="somewhere"))
    assert (given.left, given.compressor) == ((), "somewhere")
    folder = tmp_path / "trained" / "compression"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text("{}", "utf-8")
    there = find(tmp_path, "compression")
    assert (there.left, there.compressor, there.adapters) == ((), str(folder), [])


def test_the_missing_package_is_named(tmp_path: Path) -> None:
    suite = dataclasses.replace(SUITE, trainings=NEEDY)
    found = find_preparation(suite, EvalRecipe(output=tmp_path))
    assert found.left == ()
    assert found.absent == {"context2lora": f"needs no_such_package: {how_to_install('lora')}"}


def test_controls_that_were_trained_are_named_by_their_adapters(tmp_path: Path) -> None:
    for name in ("static", "static-segment"):
        folder = tmp_path / "trained" / name
        folder.mkdir(parents=True)
        (folder / "training.json").write_text("{}", "utf-8")
    there = find(tmp_path, "static", "static-segment")
    assert (there.left, there.adapters) == ((), [])
    assert there.statics == [str(tmp_path / "trained" / "static"), f"segment={folder}"]


def test_a_training_that_fails_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "trained" / "lora" / "recipe.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("schedule: none", "utf-8")
    with pytest.raises(ValueError, match="training of lora ended early, with status 1"):
        train(find(tmp_path, "context2lora"), run=in_process)
    assert "deltamem:" in capsys.readouterr().err
    with pytest.raises(ValueError, match="lora: not trained yet, and processes that share a run do not train"):
        train(find(tmp_path, "context2lora"), shared=True)


def test_the_whole_table_has_every_method_or_says_why_not(trained: Path) -> None:
    backbone = embedded_backbone(adapters=find(trained, "context2lora").adapters)
    untrained = {one.method for one in TRAININGS} - {"context2lora", "compression"}
    names, absent = choose_methods(SUITE, (), backbone, MethodOptions(), untrained)
    assert {"none", "full", "bm25", "multi", "multi+context", "hybrid", "hybrid_state", "context2lora"} <= set(names)
    assert {"context2lora_fitted", "dense", "memorybank"} <= set(names) | set(absent)
    assert untrained.isdisjoint({*names, *absent})
    assert "--compressor" in absent["llmlingua2"]
    assert "baseline memgen" in choose_methods(SUITE, (), backbone, MethodOptions())[1]["memgen"]
    assert "baseline compression" in absent["compression"]
    given = MethodOptions(compressor="somewhere")
    assert "llmlingua2" in choose_methods(SUITE, (), backbone, given)[0]
    assert names.index("empty") > names.index("context2lora_fitted")
    assert choose_methods(SUITE, ["none"], backbone, given) == (["none"], {})
    assert choose_methods(SUITES["smoke"], (), backbone, given) == (list(SUITES["smoke"].methods), {})
    alone, nothing = choose_methods(
        choose_suite("", {"world": TaskSection()}, has_model=False), (), backbone, MethodOptions()
    )
    assert ("context2lora" in alone, nothing) == (True, {})


def test_the_suite_uses_it_and_its_report_draws_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [part for name in ("none", "full", "context2lora") for part in ("--method", name)]
    with pytest.raises(SystemExit) as left:
        main(["eval", "--suite", "embedded", "--limit", "2", *chosen, "--output", str(trained), "--json"])
    assert not left.value.code
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert set(task["methods"]) == {"none", "full", "context2lora"}
    with pytest.raises(SystemExit):
        main(["report", str(trained)])
    page = (trained / "report.html").read_text("utf-8")
    assert "lora: loss" in page
    assert "Score against facts told" in page
