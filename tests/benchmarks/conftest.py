"""Finds the benchmarks' own modules, as a script in their folder does, and undoes what they set for a process."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The runs here are so short that an adapter may not have moved, which it says when it is loaded."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore:This adapter was never trained"))


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Puts back the precision of float32 products."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
