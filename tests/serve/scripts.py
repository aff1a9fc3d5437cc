"""Modules of other folders: benchmarks, which tests run in a smaller way, examples, and the store's PostgreSQL."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]


def benchmark(name: str) -> ModuleType:
    """``benchmarks/NAME.py``."""
    return _module(_ROOT / "benchmarks", name)


def example(name: str) -> Any:
    """``examples/NAME.py`` as a module of its own, whose constants a test may set."""
    spec = importlib.util.spec_from_file_location(f"{name}_example", _ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def postgres() -> ModuleType:
    """``tests/store/postgres.py``."""
    return _module(_ROOT / "tests" / "store", "postgres")


def running_postgres() -> Iterator[Any]:
    """A PostgreSQL server of the tests' own, for a fixture; without one its tests are skipped."""
    pytest.importorskip("psycopg")
    if postgres().find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed (initdb is neither on the path nor in /usr/lib/postgresql)")
    cluster = postgres().Server(postgres().find_binaries())
    yield cluster
    cluster.remove()


def _module(folder: Path, name: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
