"""Importing the package and asking the command for help load nothing heavy; every public name is still there."""

import subprocess
import sys
from pathlib import Path

import pytest

import deltamem


@pytest.mark.parametrize(
    "action",
    [
        "import deltamem; deltamem.__version__",
        "from deltamem.cli.main import build_app; build_app()",
        "import deltamem.serve.mcp",  # deltamem mcp --server: clients wait only so long for it
    ],
)
def test_nothing_heavy_is_loaded(action: str) -> None:
    check = f"import sys; {action}; assert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


MISTAKES = {
    "inspect nothing.safetensors": "There is no adapter folder or memory file nothing.safetensors.",
    "convert ./nothing out": "There is no adapter folder ./nothing.",
    "chat --model ./nothing": "There is no model folder ./nothing.",
    "chat --adapter multi": "--adapter needs the --model that it is for.",
    "chat --model embedded --adapter dual": "The package has no adapter 'dual' for embedded;",
    "ask Where? --memory nothing.safetensors": "There is no memory nothing.safetensors.",
    "ask Where? --model gemma3-270m": "gemma3-270m is not on this machine.",
    "serve --model nothing.gguf": "There is no GGUF file nothing.gguf.",
    "serve --host 0.0.0.0": "0.0.0.0 can be reached from other machines and there is no API key.",
    "init ./nothing out": "There is no model folder ./nothing.",
    "train nothing.yaml": "There is no recipe nothing.yaml.",
    "sweep nothing.yaml": "There is no sweep nothing.yaml.",
    "data convert qasper nothing.json out.jsonl": "nothing.json: no such file or folder.",
    "data check nothing.jsonl --tokenizer embedded": "nothing.jsonl: no such file.",
    "eval --recipe nothing.yaml": "There is no recipe nothing.yaml.",
    "eval --task world --model ./nothing": "There is no model folder ./nothing.",
    "eval --suite nothing": "There is no suite 'nothing'; there are: embedded, smoke, paper, real, and module:SUITE.",
    "eval --task nothing": "There is no task 'nothing'; there are: ",
    "eval --task world --protocol nothing": "world has no protocol 'nothing'; it has: world, beyond.",
    "eval --task world --method nothing": "There is no method 'nothing'; there are: ",
    "eval --suite embedded --method multi+nothing": "There is no method 'multi+nothing'; there are: ",
    "eval --suite embedded --shard 3": "--shard '3': write i/n",
    "eval --recipe wrong.yaml": "wrong.yaml has unknown keys: stepz",
    "train wrong.yaml": "wrong.yaml has unknown keys: stepz",
    "sweep wrong.yaml": "wrong.yaml has no section sweep",
    "report nothing": "There is no run nothing.",
    "bench generation --model ./nothing": "There is no model folder ./nothing.",
    "store stats --store sqlite:///nothing.db": "nothing.db",
}


def test_what_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    """Before anything is imported that takes seconds."""
    check = """
import sys
from deltamem.cli.main import main
for line in sys.stdin.read().splitlines():
    try:
        main(line.split())
    except SystemExit as left:
        print(left.code, *sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""
    (tmp_path / "wrong.yaml").write_text("stepz: 3\n")
    told = subprocess.run(
        [sys.executable, "-c", check],
        input="\n".join(MISTAKES),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stderr.splitlines()
    assert set(told[1::2]) <= {"1", "2"}, "the exit code, and what was imported"
    for line, said in zip(told[::2], MISTAKES.values(), strict=True):
        assert line.startswith("deltamem: ")
        assert said in line


@pytest.mark.parametrize("name", ["attach", "observe"])
def test_a_function_stays_when_the_module_of_its_name_is_imported(name: str) -> None:
    function = getattr(deltamem, name)
    setattr(deltamem, name, sys.modules[f"deltamem.{name}"])  # what an import statement does
    assert getattr(deltamem, name) is function


def test_every_public_name_has_a_home() -> None:
    assert {*deltamem._MODULES, "__version__"} == set(deltamem.__all__)
    assert set(deltamem.__all__) <= set(dir(deltamem))
    names: dict[str, object] = {}
    exec("from deltamem import *", names)
    assert set(deltamem.__all__) <= set(names)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = deltamem.no_such_name
