"""``deltamem eval`` and ``deltamem report`` as a user runs them."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from deltamem.cli.main import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_the_smoke_suite_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert run("eval", "--suite", "smoke", "--turns", "2", "--output", str(folder)) == 1
    assert "options differ" in capsys.readouterr().err


def test_a_plan_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    assets = Path(str(files("deltamem.demo").joinpath("assets")))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (model / name).write_bytes((assets / name).read_bytes())
    data = tmp_path / "hotpot.json"
    row = {
        "_id": "a",
        "question": "Who?",
        "answer": "Ravi",
        "type": "bridge",
        "level": "easy",
        "context": [["Ravi", ["Ravi lives in Porto.", " He plays the cello."]]],
        "supporting_facts": [["Ravi", 0]],
    }
    data.write_text(json.dumps([row] * 1), "utf-8")
    given = ("--model", str(model), "--adapter", str(assets / "adapters" / "multi"), "--data", f"hotpotqa={data}")
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
