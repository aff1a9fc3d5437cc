"""Modules of other folders: benchmarks, which tests run in a smaller way, and the PostgreSQL of the store's tests."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parents[2]


def benchmark(name: str) -> ModuleType:
    """``benchmarks/NAME.py``."""
    return _module(_ROOT / "benchmarks", name)


def postgres() -> ModuleType:
    """``tests/store/postgres.py``."""
    return _module(_ROOT / "tests" / "store", "postgres")


def _module(folder: Path, name: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
