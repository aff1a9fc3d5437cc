"""The wrapper modules that steer an attention block without touching its code.

The attention is called with a :class:`SteeredInput` in place of its hidden states: it looks like the
tensor, and takes the corrections along to the wrapped projections. So a correction travels with the
call, no module holds one, and threads, checkpointing and compilation see pure functions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from deltamem.attach.cache import MemoryCache
from deltamem.attach.families import AttentionSite, Layout, projection_sizes
from deltamem.config import Head
from deltamem.memory import Corrections, DeltaMemory
from deltamem.step import Step


class SteeredInput:
    """Hidden states ``[B, T, D]`` with the corrections of the projections they are about to enter."""

    def __init__(self, hidden_states: Tensor, corrections: Corrections) -> None:
        self.hidden_states = hidden_states
        self.corrections = corrections

    @property
    def shape(self) -> torch.Size:
        """The hidden states' shape."""
        return self.hidden_states.shape

    @property
    def dtype(self) -> torch.dtype:
        """The hidden states' dtype."""
        return self.hidden_states.dtype

    @property
    def device(self) -> torch.device:
        """The hidden states' device."""
        return self.hidden_states.device

    def size(self, *dim: int) -> Any:
        """The hidden states' size."""
        return self.hidden_states.size(*dim)


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

    def forward(self, hidden_states: Tensor | SteeredInput) -> Tensor:
        """The base projection's output ``[B, T, out]``, corrected if the input brings corrections."""
        if not isinstance(hidden_states, SteeredInput):
            return self.base_layer(hidden_states)  # type: ignore[no-any-return]
        output: Tensor = self.base_layer(hidden_states.hidden_states)
        corrections = hidden_states.corrections
        if not any(head in corrections for head in self.parts):
            return output
        return _add(output, self._lay_out(corrections, output))

    def _lay_out(self, corrections: Corrections, output: Tensor) -> Tensor:
        if self.layout == "separate":
            (head,) = self.parts
            return corrections[head]
        like = next(iter(corrections.values()))
        pieces = [
            corrections[head] if head in corrections else like.new_zeros(*output.shape[:-1], width)
            for head, width in self.parts.items()
        ]
        if self.layout == "stacked":
            return torch.cat(pieces, dim=-1)
        by_head = [torch.unflatten(piece, -1, (self.count, -1)) for piece in pieces]
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
        self._wrap_projections(site)

    def _wrap_projections(self, site: AttentionSite) -> None:
        family, sizes = site.family, projection_sizes(site)
        count = int(getattr(getattr(site.module, "config", None), "num_attention_heads", 1))
        heads: tuple[Head, ...] = ("q", "k", "v")
        self._originals = {name: getattr(site.module, name) for name in family.inputs}
        for i, name in enumerate(family.inputs):
            parts = {heads[i]: sizes[heads[i]]} if family.layout == "separate" else {h: sizes[h] for h in heads}
            setattr(site.module, name, SteeredProjection(self._originals[name], parts, family.layout, count))

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
        output = self.attention(SteeredInput(hidden_states, corrections), *args, **kwargs)
        if "o" not in corrections:
            return output
        if isinstance(output, Tensor):
            return _add(output, corrections["o"])
        return (_add(output[0], corrections["o"]), *output[1:])


def _add(output: Tensor, correction: Tensor) -> Tensor:
    return output + (correction if correction.dtype == output.dtype else correction.to(output.dtype))
