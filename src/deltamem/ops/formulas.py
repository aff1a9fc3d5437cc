"""The arithmetic of one token, said once: the layer uses it on tensors, and `decode` compiles it for numbers.

What is here may only use `+ - * /`, comparisons, and the functions of torch that `decode_kernel` has for numbers.
"""

import torch
from torch import Tensor

FLOOR = 1e-6
"""The least length that an address is divided by."""


def bounded(raw: Tensor) -> Tensor:
    """A raw address, each entry in (-1, 1)."""
    return torch.tanh(raw)


def scaled(address: Tensor, length: Tensor) -> Tensor:
    """An address `[..., R]` divided by its length `[..., 1]`."""
    return address / torch.clamp(length, FLOOR)


def gate(raw: Tensor, bias: Tensor) -> Tensor:
    """A gate in (0, 1)."""
    return torch.sigmoid(raw + bias)


def step(state: Tensor, key: Tensor, held: Tensor, value: Tensor, keep: Tensor, erase: Tensor, write: Tensor) -> Tensor:
    """The entry i, j of a state after a token, from the entry before it, k_j, (S k)_i, v_i and the gates of row i."""
    return keep * state + (write * value - erase * held) * key
