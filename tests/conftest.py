"""How every test runs.

One thread: the models are tiny, and many threads would only wait for one another. Properties are tried on the same
examples each time, so that a change is judged by what it changed; `HYPOTHESIS_PROFILE=search` looks for new ones.

Commands without a model take the real one where it has been pulled. The tests mean the toy, so what the user has
pulled and stored is out of their sight; those of the real model find it at `DELTAMEM_TESTS_PULLED`.
"""

import os
import tempfile

import torch
from hypothesis import settings

from deltamem.models.catalog import models_folder

os.environ.setdefault("DELTAMEM_TESTS_PULLED", str(models_folder().parent))
os.environ["DELTAMEM_HOME"] = tempfile.mkdtemp(prefix="deltamem-tests-")

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)  # busy machines are slow
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
