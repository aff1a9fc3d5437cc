"""The MLP, blocks of a norm, a feed-forward and a residual connection, then a norm and a head; and what it reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deltamem.attach.families import find_attention

_SPREAD = 0.02


@dataclass(frozen=True)
class MlpShape:
    """What an MLP is.

    Attributes:
        hidden: D, of the states it reads.
        vocabulary: V, the tokens it tells apart.
        layer: the backbone's block whose feed-forward reads the same states; -1 is the last.
    """

    hidden: int
    intermediate: int
    vocabulary: int
    blocks: int
    layer: int = -1
    bias: bool = False


class MlpMemory(nn.Module):
    """From a hidden state to the logits of the next token; every state by itself."""

    def __init__(self, shape: MlpShape) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(_Block(shape.hidden, shape.intermediate) for _ in range(shape.blocks))
        self.norm = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=shape.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` for hidden states ``[..., D]``, in float32."""
        state = hidden.float()
        for block in self.blocks:
            state = block(state)
        logits: Tensor = self.head(self.norm(state))
        return logits


class _Block(nn.Module):
    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden, eps=1e-6)
        self.gate = nn.Linear(hidden, intermediate, bias=False)
        self.up = nn.Linear(hidden, intermediate, bias=False)
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, state: Tensor) -> Tensor:
        read = self.norm(state)
        written: Tensor = self.down(functional.silu(self.gate(read)) * self.up(read))
        return state + written


def without_weights(shape: MlpShape) -> MlpMemory:
    """An MLP on the meta device: it has shapes, and takes no memory."""
    with torch.device("meta"):
        return MlpMemory(shape)


def fresh_memory(model: Any, *, blocks: int, layer: int = -1, seed: int = 0) -> MlpMemory:
    """An untrained MLP for a backbone: as wide as it, with its head, on its device.

    Raises:
        ValueError: the backbone has no plain output embeddings.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"{type(model).__name__} has no plain output embeddings for the MLP's head to start from.")
    config, bias = model.config.get_text_config(decoder=True), getattr(head, "bias", None)
    width = getattr(config, "intermediate_size", None) or 4 * weight.shape[1]
    shape = MlpShape(weight.shape[1], width, weight.shape[0], blocks, layer, bias is not None)
    memory = without_weights(shape).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*memory.blocks.parameters(), *memory.norm.parameters()):
            if parameter.dim() == 2:
                parameter.normal_(0, _SPREAD, generator=generator)
            else:
                parameter.fill_(1)
        memory.head.weight.copy_(weight)
        if bias is not None:
            memory.head.bias.copy_(bias)
    return memory.requires_grad_(False).to(model.device)


def feed_forward(model: nn.Module, layer: int) -> nn.Module:
    """The feed-forward of a backbone's block of that number, -1 for the last; the backbone may have adapters.

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
