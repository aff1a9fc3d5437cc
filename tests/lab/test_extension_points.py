"""Tasks, methods and suites of another package, through the command line and its entry points."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltamem.cli.main import main
from deltamem_lab import names, suites
from deltamem_lab.methods.registry import build_method, describe_method, find_method, is_control, own_methods
from deltamem_lab.records import read_run
from deltamem_lab.tasks.registry import find_task, own_tasks

TASK = '''
"""A task: colours that people like."""

from deltamem_lab.interface import Decoding, Item, PublishedSize, Question, as_messages


class Colours:
    """Who likes which colour."""

    name = "colours"
    protocols = ("plain", "loose")
    main_metric = "exact"
    averages = ("question",)
    settings = {}
    size = PublishedSize(40, 40, 100, 110, 10, 4)

    def __init__(self, data=None, seed=0, *, names: tuple[str, ...] = ("Ada", "Ben", "Cleo", "Dan"), new: int = 4):
        if data is not None and not data.is_file():
            raise FileNotFoundError(f"There is no {data}.")
        self.names, self.new = names, new
        self.revision = f"colours/{seed}/{len(names)}"

    def items(self, protocol, limit=None):
        for name in self.names[:limit]:
            told = {"role": "user", "content": f"{name} likes green."}
            said = {"role": "assistant", "content": "OK."}
            asked = Question("0", f"What does {name} like?", ("green",))
            yield Item(name, (told, said), (asked,))

    def prompt(self, item, question, history, protocol, budget):
        return [*as_messages(history), {"role": "user", "content": question.text}]

    def decoding(self, item, question, protocol):
        return Decoding(self.new)

    def score(self, item, question, output, protocol):
        return {"exact": float(question.answers[0] in output)}
'''
METHODS = '''
"""Methods: the first turn, and an adapter's memory that is dropped."""

from deltamem_lab.interface import as_text
from deltamem_lab.methods import BackboneMethod, method
from deltamem_lab.methods.memory import StateMemory


class FirstTurn(BackboneMethod):
    """The first turn alone.

    More of it.
    """

    def show(self, asks):
        return [(self.history[:1], {"shown": as_text(self.history[0])})] * len(asks)

    def estimate(self, size):
        return 0, size.bare + 7


@method("dropped", "control: a memory that is dropped", "control", control="empty")
class Dropped(StateMemory):
    """A memory that is dropped."""


class NoMethod:
    """Nothing."""
'''
SUITE = '''
"""A suite of this package's task and method."""

from deltamem_lab.suites import Suite, SuiteTask

BOTH = Suite((SuiteTask("colours_pkg.task:Colours", "loose"),), methods=("none", "first"), embedded=True, limit=2)
'''
ENTRY_POINTS = """
[deltamem.tasks]
colours = colours_pkg.task:Colours

[deltamem.methods]
first = colours_pkg.methods:FirstTurn
dropped = colours_pkg.methods:Dropped
broken = colours_pkg.methods:NoMethod

[deltamem.suites]
both = colours_pkg.suite:BOTH
"""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package as pip would lay it down."""
    folder = tmp_path_factory.mktemp("site-packages")
    code, about = folder / "colours_pkg", folder / "colours_pkg-1.0.dist-info"
    code.mkdir()
    about.mkdir()
    for name, text in {"__init__": "", "task": TASK, "methods": METHODS, "suite": SUITE}.items():
        (code / f"{name}.py").write_text(text)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: colours-pkg\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in [name for name in sys.modules if name.startswith("colours_pkg")]:
        del sys.modules[name]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["eval", *map(str, arguments)])
    return int(left.value.code or 0)


def test_the_names_that_are_known_without_importing_are_those_that_there_are() -> None:
    assert names.tasks() == {name: tuple(one.protocols) for name, one in own_tasks().items()}
    assert set(names.SUITES) == {*suites.SUITES, names.REAL}
    methods, kinds = names.methods()
    assert sorted(methods) == sorted(own_methods())
    assert set(kinds) == {one.made.weights.kind for one in own_methods().values() if one.made.weights}


NAMED = ("--task", "colours_pkg.task:Colours", "--method", "colours_pkg.methods:FirstTurn", "--method", "none")


def test_a_class_is_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*NAMED, "--output", tmp_path, "--json", "--option", "names=Ada,Eve,Flo") == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["task"], task["protocol"], task["questions"]) == ("colours", "plain", 3)
    assert set(task["methods"]) == {"colours_pkg.methods:FirstTurn", "none"}
    records = read_run(tmp_path)
    assert {one.item for one in records} == {"Ada", "Eve", "Flo"}
    shown = [one.notes["shown"] for one in records if one.method != "none"]
    assert "Eve likes green." in shown
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path)])
    assert not left.value.code
    assert "colours\\_pkg.methods:FirstTurn" in (tmp_path / "report.md").read_text("utf-8")


def test_shards_and_a_run_that_goes_on_are_as_for_any_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*NAMED, "--output", tmp_path, "--shard", "1/2") == 0
    assert "Answered 4 questions" in capsys.readouterr().out
    assert run(*NAMED, "--output", tmp_path, "--shard", "2/2") == 0
    assert run(*NAMED, "--output", tmp_path) == 0
    assert "Answered 0 questions now" in capsys.readouterr().out
    assert run(*NAMED, "--output", tmp_path, "--option", "colours_pkg.task:Colours.names=Ada") == 1
    assert "colours" in capsys.readouterr().err


def test_what_would_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*NAMED, "--output", tmp_path, "--dry-run", "--json", "--seeds", "0,1") == 0
    plan = json.loads(capsys.readouterr().out)
    first, bare, *_ = (row for row in plan["runs"])
    assert (first["task"], first["questions"], first["new_tokens"]) == ("colours", 4, 16)
    assert first["prompt_tokens"] == bare["prompt_tokens"] + 4 * 7
    assert len(plan["runs"]) == 4
    assert run(*NAMED, "--output", tmp_path, "--dry-run", "--json", "--option", "new=5") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["new_tokens"] == 20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suite", ["both", "colours_pkg.suite:BOTH"])
def test_a_suite_and_entry_points_of_another_package(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--suite", suite, "--output", tmp_path, "--json") == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["protocol"], task["questions"]) == ("loose", 2)
    assert set(task["methods"]) == {"none", "first"}


def test_methods_that_are_installed_are_known_by_name(backbone: "object") -> None:
    assert find_task("colours").name == "colours"
    assert find_method("first").about == "The first turn alone"
    assert describe_method("dropped:multi") == "control: a memory that is dropped (multi)"
    assert is_control("dropped:multi")
    assert not is_control("first")
    built = build_method("dropped:token", backbone)  # type: ignore[arg-type]
    assert (built.adapter, built.control, built.name) == ("token", "empty", "dropped:token")  # type: ignore[attr-defined]


def test_a_record_is_no_reason_to_import_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert describe_method("harmful:Class") == "harmful:Class"
    assert not is_control("harmful:Class")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "no_such_pkg:Task"], "There is no no_such_pkg:Task: No module named 'no_such_pkg'"),
        (["--task", "colours_pkg.task:Other"], "colours_pkg.task has no Other"),
        (["--task", "colours_pkg.methods:NoMethod"], "is not a task: its class needs name, protocols"),
        (["--task", "nothing"], "There is no task 'nothing'; there are: "),
        (["--task", "world", "--method", "colours_pkg.methods:NoMethod"], "is not a method: its class must inherit"),
        (["--task", "world", "--method", "broken"], "is not a method: its class must inherit"),
        (["--task", "world", "--method", "colours_pkg.methods:FirstTurn:multi"], "it does not use an adapter"),
        (["--task", "world", "--method", "nothing"], "There is no method 'nothing'; there are: "),
        (["--suite", "colours_pkg.task:Colours"], "is not a suite"),
        (["--task", "colours", "--option", "new=many"], "new must be a number, or numbers"),
        (["--task", "colours", "--task", "colours_pkg.task:Colours"], "Several tasks are named colours"),
        (["--task", "world", "--method", "json:"], "There is no method 'json:'"),
    ],
)
def test_what_is_no_task_or_method_is_told(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--output", tmp_path) in (1, 2)
    assert said in capsys.readouterr().err
