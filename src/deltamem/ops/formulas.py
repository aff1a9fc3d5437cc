"""The arithmetic of one token, said once: the layer uses it on tensors, and `decode` compiles it for numbers.

What is here may only use `+ - * /`, comparisons, and the functions of torch that `decode_kernel` has for numbers.
"""
# a number is as good as a tensor
# mypy: allow-untyped-defs

import torch

FLOOR = 1e-6
"""The least length that an address is divided by."""


def bounded(raw):
    """A raw address, each entry in (-1, 1)."""
    return torch.tanh(raw)


def scaled(address, length):
    """An address `[..., R]` divided by its length `[..., 1]`."""
    return address / torch.clamp(length, FLOOR)


def gate(raw, bias):
    """A gate in (0, 1)."""
    return torch.sigmoid(raw + bias)


def step(state, key, held, value, keep, erase, write):
    """The entry i, j of a state after a token, from the entry before it, k_j, (S k)_i, v_i and the gates of row i."""
    return keep * state + (write * value - erase * held) * key
