"""Importing the package and asking the command for help load nothing heavy; every public name is still there."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import deltamem
from deltamem.store import SessionStore, StateKeys


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


def test_the_command_before_a_server_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "deltamem", "mcp", "--server", "http://127.0.0.1:9"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "deltamem.serve.mcp" in imported
    assert not {"torch", "transformers", "numpy"} & imported


MISTAKES = {
    "inspect nothing.safetensors": "There is no adapter folder or memory file nothing.safetensors.",
    "convert ./nothing out": "There is no adapter folder ./nothing.",
    "chat --model nothing --adapter nothing": "There is no model folder nothing.",
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
    "serve --port {port}": "Port {port} of 127.0.0.1 is in use. Give another --port",
    "serve --port 0 --allow-origin https://a.example/": "--allow-origin https://a.example/ is no web origin: write it",
    "serve --port 0 --allow-origin chat.example": "--allow-origin chat.example is no web origin: write it as browsers",
    "serve --host 192.0.2.1": "--host 192.0.2.1 is not an address of this machine.",
    "serve --host 0.0.0.0 --port 0 --store sqlite:///empty.db": "0.0.0.0 can be reached from other machines",
    "serve --port 0 --store sqlite:///locked.db": "the store was opened without keys.",
    "mcp --store sqlite:///locked.db": "the store was opened without keys.",
    "mcp --model ./nothing": "There is no model folder ./nothing.",
}
if find_spec("lm_eval"):
    MISTAKES["eval --harness arc_easy,no_task"] = "lm-evaluation-harness has no task no_task; `lm-eval ls tasks`"


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
    keys = StateKeys.from_text(StateKeys.generate("one"))
    with SessionStore.open(f"sqlite:///{tmp_path / 'locked.db'}", keys=keys) as store:
        store.create("default", "old", fingerprint="f", state=b"x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = subprocess.run(
            [sys.executable, "-c", check],
            input="\n".join(MISTAKES).replace("{port}", port),
            cwd=tmp_path,
            env=os.environ | {"DELTAMEM_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stderr.splitlines()
    assert set(told[1::2]) <= {"1", "2"}, "the exit code, and what was imported"
    for line, said in zip(told[::2], MISTAKES.values(), strict=True):
        assert line.startswith("deltamem: ")
        assert said.replace("{port}", port) in line


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
