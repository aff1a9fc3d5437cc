"""``deltamem eval`` and ``deltamem report`` as a user runs them."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import typer

from deltamem.cli.main import main
from deltamem_lab.commands.evaluation.arguments import read_sources, with_sources
from deltamem_lab.commands.evaluation.recipe import RECIPE_FILE, read_recipe, save_recipe
from deltamem_lab.commands.evaluation.running import Lines
from deltamem_lab.notes import read_notes
from deltamem_lab.records import read_run
from deltamem_lab.runner import Progress


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_the_smoke_suite_and_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert run("eval", "--suite", "smoke", "--output", str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (task,) = found["tasks"]
    assert found["answered"] == 5 * task["questions"]
    methods = task["methods"]
    assert methods["multi"]["differences"]["none"]["verdict"] == "better"
    assert methods["multi"]["differences"]["shuffled"]["verdict"] == "better"
    assert methods["shuffled"]["differences"]["none"]["verdict"] != "better"
    assert run("eval", "--suite", "smoke", "--output", str(folder)) == 0
    assert "Answered 0 questions now" in capsys.readouterr().out
    assert run("report", str(folder)) == 0
    assert (folder / "report.html").is_file()
    before = read_notes(folder)
    assert len(before.commands) == 1
    monkeypatch.setattr("sys.argv", ["deltamem", "eval", "--turns", "2"])
    assert run("eval", "--suite", "smoke", "--turns", "2", "--output", str(folder)) == 1
    assert "options of turns differ" in capsys.readouterr().err
    assert read_notes(folder) == before


ASSETS = Path(str(files("deltamem.demo").joinpath("assets")))
HOTPOT = {
    "_id": "a",
    "question": "Who?",
    "answer": "Ravi",
    "type": "bridge",
    "level": "easy",
    "context": [["Ravi", ["Ravi lives in Porto.", " He plays the cello."]]],
    "supporting_facts": [["Ravi", 0]],
}
IFEVAL = {
    "key": 7,
    "prompt": "Use no commas.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}
LOCOMO = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Bruno",
        "session_1_date_time": "1 pm on 1 May, 2023",
        "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": "I moved to Oslo."}],
    },
    "qa": [
        {"question": "What did Ada buy?", "answer": "a cello", "category": number, "evidence": []} for number in (1, 4)
    ],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The embedded backbone without its weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((ASSETS / name).read_bytes())
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, ...]:
    """The data of three tasks, as options."""
    options: list[str] = []
    for name, row in (("hotpotqa", HOTPOT), ("ifeval", IFEVAL), ("locomo", LOCOMO)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([row]), "utf-8")
        options += ["--data", f"{name}={path}"]
    return tuple(options)


def test_the_papers_suite_is_planned_whole(
    model: Path, sources: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = ("--model", str(model), "--adapter", str(ASSETS / "adapters" / "multi"), *sources)
    assert run("eval", "--suite", "paper", *given, "--option", "categories=1", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    methods: dict[str, set[str]] = {}
    for row in plan["runs"]:
        methods.setdefault(row["task"], set()).add(row["method"])
    assert set(methods) == {"locomo", "memoryagentbench", "hotpotqa", "gpqa", "ifeval"}
    assert methods["ifeval"] == methods["gpqa"] == {"none", "multi+context"}
    assert {"full", "bm25", "multi", "shuffled"} <= methods["memoryagentbench"]
    assert set(plan["missing"]) == {"memoryagentbench", "gpqa"}
    assert {row["task"] for row in plan["runs"] if row["published"]} == set(plan["missing"])
    assert {row["questions"] for row in plan["runs"] if row["task"] == "memoryagentbench"} == {3671}
    assert {row["questions"] for row in plan["runs"] if row["task"] == "locomo"} == {1}
    assert {"context2lora", "memgen", "mlp_memory", "llmlingua2", "static"} <= set(plan["absent"])
    assert "--adapter lora=FOLDER" in plan["absent"]["context2lora"]
    assert all(row["prompt_tokens"] > 0 for row in plan["runs"])
    assert run("eval", "--suite", "paper", *given, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "gpqa, release, none *" in said
    assert "* Its data is not here" in said
    assert "locomo, release, none  " in said


def test_numbers_attention_and_devices_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    chosen = ("--model", str(ASSETS), "--task", "world", "--method", "none", "--limit", "1", "--questions", "1")
    given = ("--dtype", "float16", "--attention", "eager", "--device-map", "cpu", "--output", str(folder))
    assert run("eval", *chosen, *given) == 0
    options = json.loads((folder / "run.json").read_text("utf-8"))["options"]
    assert (options["dtype"], options["attention"]) == ("float16", "eager")
    assert len(read_run(folder)) == 1
    capsys.readouterr()
    assert run("eval", *chosen, "--dtype", "float8") == 1
    assert (
        "model.dtype: Input should be 'auto', 'float32', 'bfloat16' or 'float16' ('float8')" in capsys.readouterr().err
    )
    assert run("eval", "--task", "world", "--dtype", "float16") == 2
    assert "go with a --model" in capsys.readouterr().err


def test_ifeval_runs_like_any_task(
    tmp_path: Path, sources: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    folder = tmp_path / "run"
    given = ("--task", "ifeval", "--method", "none", "--method", "multi+context", "--output", str(folder))
    assert run("eval", *given, *sources[2:4], "--json") == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["task"], task["metric"], task["questions"]) == ("ifeval", "prompt_strict", 1)
    assert "instructions_loose" in task["methods"]["none"]["metrics"]
    assert run("eval", *given, *sources[2:4]) == 0
    assert "Answered 0 questions now" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_tasks_of_the_harness_become_records_once(
    tmp_path: Path, sources: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    folder = tmp_path / "run"
    given = ("--harness", "ifeval", "--data", str(tmp_path / "ifeval.jsonl"), "--output", str(folder))
    (tmp_path / "ifeval.jsonl").write_text(json.dumps(IFEVAL) + "\n", "utf-8")
    chosen = ("--method", "none", "--method", "multi+context")
    assert run("eval", *given, *chosen, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answered"] == 2
    assert set(found["tasks"][0]["methods"]) == {"none", "multi+context"}
    multi = {record.method: record for record in read_run(folder)}["multi+context"]
    assert "Use no commas." in multi.prompt
    assert multi.adapter
    assert (folder / "harness" / "ifeval-none.json").is_file()
    assert read_notes(folder).commands
    assert run("eval", *given, *chosen) == 0
    assert "Answered 0 questions now" in capsys.readouterr().out
    assert run("eval", *given, *chosen, "--limit", "1") == 1
    assert "limit differ" in capsys.readouterr().err


def test_what_the_harness_cannot_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    lora = tmp_path / "lora"
    lora.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (lora / name).write_text("{}", "utf-8")
    for given, said in (
        (("--shard", "1/2", "--seeds", "1"), "--seeds, --shard cannot be used with --harness"),
        (("--adapter", f"lora={lora}"), "is not a δ-mem adapter (lora)"),
        (("--method", "bm25"), "with --harness there are only none"),
    ):
        assert run("eval", "--harness", "ifeval", *given, "--output", str(tmp_path / "run")) > 0
        assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    # Each would do all of it, and write the same files.
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("eval", "--harness", "ifeval", "--output", str(tmp_path / "run")) > 0
    assert "several processes cannot be used" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_what_is_named_twice_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ("--task", "world", "--method", "none") * 2
    assert run("eval", *twice, "--seeds", "0,0", "--limit", "1", "--output", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answered"] == found["tasks"][0]["questions"] > 0


def test_options_and_revisions_are_for_tasks() -> None:
    tasks = ["locomo", "memoryagentbench", "longmemeval"]
    options = ["categories=1", "judge=m", "longmemeval.judge_url=http://x", "memoryagentbench.sources=icl"]
    assert read_sources(["locomo=a.json"], ["longmemeval=abc"], options, tasks) == {
        "locomo": {"data": "a.json", "options": {"categories": "1", "judge": "m"}},
        "memoryagentbench": {"options": {"judge": "m", "sources": "icl"}},
        "longmemeval": {"revision": "abc", "options": {"judge": "m", "judge_url": "http://x"}},
    }
    assert read_sources([], ["abc"], [], ["gpqa"]) == {"gpqa": {"revision": "abc"}}
    for wrong in ("nothing=1", "hotpotqa.categories=1", "categories"):
        with pytest.raises(typer.BadParameter, match=r"TASK\.NAME=VALUE"):
            read_sources([], [], [wrong], tasks)
    with pytest.raises(typer.BadParameter, match="TASK=REVISION"):
        read_sources([], ["abc"], [], tasks)


RECIPE = """
tasks:
  locomo: {protocol: official, data: locomo.json, options: {categories: [1, 4]}}
  world: {}
model: {name: model, dtype: float32}
adapters: {mine: ADAPTER}
methods: [none, mine]
seeds: [3]
"""


def test_a_recipe_says_what_the_options_say_and_they_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(RECIPE.replace("ADAPTER", str(ASSETS / "adapters" / "multi")), "utf-8")
    asked = read_recipe(Path("own.yaml"), {})
    assert asked.tasks["locomo"].options == {"categories": [1, 4]}
    assert (asked.model.name, asked.model.dtype, asked.has_model) == ("model", "float32", True)
    changed = read_recipe(Path("own.yaml"), {"model.dtype": "bfloat16", "limit": 2})
    changed = with_sources(changed, (), (), ("categories=2",))
    assert (changed.model.name, changed.model.dtype, changed.limit) == ("model", "bfloat16", 2)
    assert changed.tasks["locomo"].options == {"categories": "2"}
    assert changed.tasks["locomo"].data == Path("locomo.json")
    assert list(read_recipe(Path("own.yaml"), {}, ["world"], "beyond").tasks) == ["world"]
    save_recipe(changed)
    assert read_recipe(changed.output / RECIPE_FILE, {}) == changed


def test_a_run_is_repeated_by_the_recipe_that_it_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    given = ("--task", "world", "--method", "none", "--limit", "1", "--questions", "2", "--seeds", "4")
    assert run("eval", *given, "--output", str(folder)) == 0
    assert run("eval", "--recipe", str(folder / RECIPE_FILE)) == 0
    assert "Answered 0 questions now" in capsys.readouterr().out
    assert run("eval", "--recipe", str(folder / RECIPE_FILE), "--output", str(tmp_path / "again"), "--limit", "2") == 0
    assert {record.seed for record in read_run(tmp_path / "again")} == {4}
    assert len(read_run(tmp_path / "again")) == 2 * len(read_run(folder))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: {world: {}}", "unknown keys: task (did you mean tasks?)"),
        ("tasks: {world: {protocoll: x}}", "tasks.world.protocoll (did you mean protocol?)"),
        ("seeds: one", "seeds: "),
        ("{suite: smoke, tasks: {gpqa: {}}}", "The suite smoke has no task gpqa"),
        ("{suite: smoke, tasks: {world: {protocol: beyond}}}", "A suite has its own protocols"),
        ("tasks: [", "is not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_key(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text, "utf-8")
    assert run("eval", "--recipe", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "run")) > 0
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    seldom, often = Lines(60), Lines(0)
    for lines in (seldom, often):
        lines(Progress(3, 1200, 75.0, "world, none"))
    assert capsys.readouterr().err == "3 of 1,200 (world, none) about 1:15 left\n"


def test_a_plan_needs_no_weights(model: Path, sources: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--model", str(model), "--adapter", str(ASSETS / "adapters" / "multi"), *sources[:2])
    assert run("eval", "--task", "hotpotqa", *given, "--dry-run", "--json") == 0
    plan = {one["method"]: one for one in json.loads(capsys.readouterr().out)["runs"]}
    assert {"none", "full", "multi", "multi+context", "hybrid", "shuffled"} <= set(plan)
    assert plan["multi"]["questions"] == 1
    assert plan["full"]["prompt_tokens"] > plan["multi"]["prompt_tokens"]
    assert plan["multi"]["write_tokens"] > 5 > plan["full"]["write_tokens"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give a --suite"),
        (("--suite", "other"), "There is no suite"),
        (("--suite", "paper"), "needs a --model"),
        (("--suite", "smoke", "--shard", "3/2"), "i from 1 to n"),
        (("--suite", "smoke", "--seeds", "one"), "whole numbers"),
        (("--suite", "smoke", "--method", "other"), "There is no method"),
        (("--task", "other"), "There is no task"),
        (("--task", "world", "--protocol", "other"), "has no protocol"),
    ],
)
def test_wrong_usage_is_said_plainly(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", *arguments, "--output", str(tmp_path / "run")) > 0
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list((tmp_path / "run").glob("*.jsonl"))
