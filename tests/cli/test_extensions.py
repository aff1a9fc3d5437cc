"""What other packages add to the command line, and what it says when they are not there."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

import deltamem
from deltamem.cli import extensions
from deltamem.cli.main import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def found(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    """Has the command line find these commands, as ``module:attribute``, and no others."""
    made = [EntryPoint(name, value, extensions.COMMANDS) for name, value in entries.items()]
    monkeypatch.setattr("deltamem.extensions.entry_points", lambda group: [one for one in made if one.group == group])


hello = typer.Typer(help="Says hello.\n\nExample: deltamem hello world")


@hello.command("world")
def world(name: str = "you") -> None:
    """Says hello to a name."""
    print(f"hello {name}")


def stranger() -> None:
    """Takes a command's name that is the product's own."""
    raise AssertionError


@pytest.mark.parametrize("name", extensions.EXTRAS)
def test_a_command_that_no_package_adds_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch)
    assert run(name, "a", "--suite", "smoke", "-x") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"deltamem: deltamem {name} is not installed: pip install ")
    assert "--editable" in error
    assert run(name, "--help") == 0
    assert run("--help") == 0


def test_a_command_that_cannot_be_imported_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, eval="no_such_package.commands:eval")
    assert run("eval", "--suite", "smoke") == 1
    assert "deltamem eval cannot be loaded (No module named 'no_such_package')" in capsys.readouterr().err
    assert run("doctor", "--help") == 0


def test_any_package_can_add_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found(monkeypatch, hello=f"{__name__}:hello", serve=f"{__name__}:stranger")
    assert run("hello", "world", "--name", "Ada") == 0
    assert capsys.readouterr().out == "hello Ada\n"
    assert run("--help") == 0
    assert "Says hello." in capsys.readouterr().out
    assert run("serve", "--help") == 0
    assert "OpenAI" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["accelerate", "yaml"])
def test_training_without_its_extra_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("backbone: {model: embedded}\n")
    monkeypatch.setitem(sys.modules, package, None)
    assert run("train", str(tmp_path / "own.yaml")) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"deltamem: Training needs {package}: pip install ")
    assert said.endswith('[train]"\n')


def test_the_size_cannot_be_found_without_what_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch)
    with pytest.raises(ImportError, match=r"--auto-size is not installed: pip install .*\[train\]"):
        extensions.find_sizing()


def test_the_product_does_not_name_the_laboratory() -> None:
    """Not even in a string: import-linter sees imports, and this what would be imported by name."""
    product = Path(deltamem.__file__).parent
    files = [path for path in product.rglob("*") if path.suffix in (".py", ".yaml", ".json", ".html", ".js", ".css")]
    assert len(files) > 100
    assert not [str(path) for path in files if re.search("deltamem[_-]lab", path.read_text("utf-8"))]
