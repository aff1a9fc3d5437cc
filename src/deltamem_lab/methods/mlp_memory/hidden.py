"""The hidden state that is key, query and input: what the feed-forward of a block reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from deltamem.attach.families import find_attention


def feed_forward(model: nn.Module, layer: int) -> nn.Module:
    """The feed-forward of a backbone's block.

    Args:
        model: the backbone, bare or with adapters.
        layer: the block's number; -1 is the last.

    Raises:
        ValueError: there is no such block, or its feed-forward is not named ``mlp``.
    """
    sites = find_attention(model)
    if not -len(sites) <= layer < len(sites):
        raise ValueError(f"There is no block {layer}: this backbone has {len(sites)}, so -{len(sites)} is the lowest.")
    path = sites[layer].path
    while path:
        path = path.rpartition(".")[0]
        found = getattr(model.get_submodule(path), "mlp", None)
        if isinstance(found, nn.Module):
            return found
    raise ValueError(f"{type(model).__name__} has no feed-forward named mlp around {sites[layer].path}.")


@contextmanager
def reading(model: nn.Module, layer: int) -> Iterator[list[Tensor]]:
    """Within the block, a list that holds the hidden states ``[B, T, D]`` of the last forward pass."""
    held: list[Tensor] = []

    def hold(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        held[:] = inputs[:1]

    handle = feed_forward(model, layer).register_forward_pre_hook(hold)
    try:
        yield held
    finally:
        handle.remove()
