"""How every test runs.

One thread: the models are tiny, and many threads would only wait for one another. Properties are tried on the same
examples each time, so that a change is judged by what it changed; `HYPOTHESIS_PROFILE=search` looks for new ones.
"""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
