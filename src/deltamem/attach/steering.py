"""The wrapper modules that steer an attention block without touching its code.

The corrections travel as an attribute of the attention's hidden states into the wrapped projections, each of which
takes its own. So no module holds a correction, and threads, checkpointing and compilation see pure functions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from deltamem.attach.cache import MemoryCache
from deltamem.attach.families import AttentionSite, Layout, projection_sizes
from deltamem.config import Head
from deltamem.memory import Corrections, DeltaMemory
from deltamem.step import Step

_KEY = "deltamem_corrections"


class SteeredProjection(nn.Module):
    """A projection of the backbone that adds the corrections its input brings along.

    Args:
        base: the backbone's own projection, whatever module it is.
        parts: the heads it computes with their widths, in the order of its output.
        layout: how several parts lie in that output.
        count: the number of attention heads, for the ``interleaved`` layout.
    """

    def __init__(self, base: nn.Module, parts: dict[Head, int], layout: Layout, count: int) -> None:
        super().__init__()
        self.base_layer = base
        self.parts = parts
        self.layout = layout
        self.count = count

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The base projection's output ``[B, T, out]``, with the corrections that its input brings along."""
        output: Tensor = self.base_layer(hidden_states)
        corrections: Corrections | None = getattr(hidden_states, _KEY, None)
        if corrections is None:
            return output
        pieces = {head: corrections.pop(head) for head in self.parts if head in corrections}
        return _add(output, self._lay_out(pieces, output)) if pieces else output

    def _lay_out(self, pieces: Corrections, output: Tensor) -> Tensor:
        if self.layout == "separate":
            (piece,) = pieces.values()
            return piece
        like = next(iter(pieces.values()))
        filled = [
            pieces[head] if head in pieces else like.new_zeros(*output.shape[:-1], width)
            for head, width in self.parts.items()
        ]
        if self.layout == "stacked":
            return torch.cat(filled, dim=-1)
        by_head = [torch.unflatten(piece, -1, (self.count, -1)) for piece in filled]
        return torch.cat(by_head, dim=-1).flatten(-2)


class SteeredAttention(nn.Module):
    """An attention block of the backbone with the memories of its adapters.

    Attributes:
        index: its place among the adapted layers of each adapter, by the adapter's name.
    """

    def __init__(self, site: AttentionSite) -> None:
        super().__init__()
        self.attention = site.module
        self.adapters = nn.ModuleDict()
        self.index: dict[str, int] = {}
        self.active: str | None = None
        self._site = site
        self._originals: dict[str, nn.Module] = {}

    def add(self, name: str, memory: DeltaMemory, index: int) -> None:
        """Puts an adapter's memory here, and wraps those projections that it corrects."""
        self.adapters[name] = memory
        self.index[name] = index
        family, module = self._site.family, self._site.module
        sizes = projection_sizes(self._site)
        count = int(getattr(getattr(module, "config", None), "num_attention_heads", 1))
        heads: tuple[Head, ...] = ("q", "k", "v")
        for i, projection in enumerate(family.inputs):
            parts = {heads[i]: sizes[heads[i]]} if family.layout == "separate" else {h: sizes[h] for h in heads}
            if projection in self._originals or parts.keys().isdisjoint(memory.config.heads):
                continue
            self._originals[projection] = original = getattr(module, projection)
            setattr(module, projection, SteeredProjection(original, parts, family.layout, count))

    def unwrap(self) -> nn.Module:
        """Puts the attention's own projections back and returns it."""
        for name, module in self._originals.items():
            setattr(self.attention, name, module)
        return self.attention

    def __getattr__(self, name: str) -> Any:
        """What other code asks of the attention block (``layer_idx``, ``config``, …) it answers itself."""
        modules = self.__dict__.get("_modules", {})
        if name in modules:
            return modules[name]
        return getattr(modules["attention"], name) if "attention" in modules else super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The attention's own forward, corrected by the active adapter; ``memory`` brings the step."""
        step: Step | None = kwargs.pop("memory", None)
        if self.active is None:
            return self.attention(*args, **kwargs)
        if step is None:
            step = next((one.step for one in kwargs.values() if isinstance(one, MemoryCache)), None)
        if step is None:
            raise RuntimeError(
                f"No memory reached {type(self.attention).__name__}. Call the model that you attached the memory to. "
                "If its decoder blocks pass no keywords on to the attention, its family needs keywords=False "
                "(deltamem.register_family), and gradient checkpointing must be off, as for GPT-Neo."
            )
        if args:
            hidden_states, args = args[0], args[1:]
        else:
            hidden_states = kwargs.pop("hidden_states")
        memory: DeltaMemory = self.adapters[self.active]  # type: ignore[assignment]
        layer = self.index[self.active]
        corrections, state, pending = memory(hidden_states, *step.take(layer, hidden_states.device))
        step.put(layer, state, pending)
        if step.gates is not None:
            step.gates.setdefault(layer, memory.write_gates(hidden_states))
        if step.inputs is not None:
            step.inputs.setdefault(layer, hidden_states)
        of_output = corrections.pop("o", None)
        setattr(hidden_states, _KEY, corrections)
        output = self.attention(hidden_states, *args, **kwargs)
        setattr(hidden_states, _KEY, None)
        if corrections:
            raise RuntimeError(
                f"{type(self.attention).__name__} did not give its own input to its projections, so the corrections of "
                f"{', '.join(corrections)} were lost. Its class cannot carry a memory of these heads."
            )
        if of_output is None:
            return output
        if isinstance(output, Tensor):
            return _add(output, of_output)
        return (_add(output[0], of_output), *output[1:])


def _add(output: Tensor, correction: Tensor) -> Tensor:
    return output + (correction if correction.dtype == output.dtype else correction.to(output.dtype))
