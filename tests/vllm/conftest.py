"""Backbones on vLLM, in this process, beside the same ones on transformers."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

sys.path.append(str(Path(__file__).parents[1] / "serve"))  # for a running server

# This folder's name would pass for an empty package, so ask for what is in the real one.
HAS_VLLM = importlib.util.find_spec("vllm.config") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM has its own
            item.add_marker(pytest.mark.timeout(3600))  # an engine takes minutes to start on a busy machine
            if not HAS_VLLM:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed here: make vllm-test"))


@pytest.fixture(scope="session", autouse=True)
def _registered() -> None:
    """Each engine of vLLM's looks through all modules for kernels, and trips over numba's; once will do."""
    if HAS_VLLM:
        from vllm.platforms import current_platform

        current_platform.register_triton_kernel_overrides()
        type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)


@pytest.fixture(scope="module")  # a process has one engine at a time
def served(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[object]":
    from beside import Beside

    beside = Beside("llama", tmp_path_factory.mktemp("llama"))
    yield beside
    beside.close()
