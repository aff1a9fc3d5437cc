"""One thread: the models are tiny, and many threads would only wait for one another."""

import torch

torch.set_num_threads(1)
