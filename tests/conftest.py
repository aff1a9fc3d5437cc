"""How every test runs.

One thread, in the processes that tests start too: the models are tiny, many threads would only wait for one another,
and tests run in as many processes as there are cores. Properties are tried on the same
examples each time, so that a change is judged by what it changed; `HYPOTHESIS_PROFILE=search` looks for new ones.

Commands without a model take the real one where it has been pulled. The tests mean the toy, so what the user has
pulled and stored is out of their sight; those of the real model find it at `DELTAMEM_TESTS_PULLED`.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

# Before torch is there: it reads this once, for the threads that it does not tell otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from deltamem.models.catalog import models_folder

os.environ.setdefault("DELTAMEM_TESTS_PULLED", str(models_folder().parent))
os.environ["DELTAMEM_HOME"] = tempfile.mkdtemp(prefix="deltamem-tests-")
atexit.register(shutil.rmtree, os.environ["DELTAMEM_HOME"], ignore_errors=True)

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)  # busy machines are slow
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def no_command_leaves_its_logs() -> Iterator[None]:
    """Takes away the log handler of a command that a test ran in this process; all later servers would print by it."""
    yield
    if logs := sys.modules.get("deltamem.serve.logs"):
        for handler in logging.getLogger().handlers[:]:
            if isinstance(handler, logs._StandardError):
                logging.getLogger().removeHandler(handler)
