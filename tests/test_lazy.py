"""Importing the package and asking the command for help load nothing heavy; every public name is still there."""

import subprocess
import sys

import pytest

import deltamem


@pytest.mark.parametrize(
    "action", ["import deltamem; deltamem.__version__", "from deltamem.cli.main import build_app; build_app()"]
)
def test_nothing_heavy_is_loaded(action: str) -> None:
    check = f"import sys; {action}; assert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
