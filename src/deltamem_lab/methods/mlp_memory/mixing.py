"""Decoding with the MLP: its distribution mixed into the backbone's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from deltamem_lab.methods.mlp_memory.hidden import reading
from deltamem_lab.methods.mlp_memory.network import MlpMemory


def mixture(logits: Tensor, memory_logits: Tensor, share: float) -> Tensor:
    """log((1 - share)·p + share·p_memory), in float32; both inputs ``[..., V]``."""
    weights = torch.tensor([1 - share, share], device=logits.device).log()
    ours, theirs = (torch.log_softmax(one.float(), dim=-1) for one in (logits, memory_logits))
    return torch.logaddexp(ours + weights[0], theirs + weights[1])


@contextmanager
def mixing(model: Any, memory: MlpMemory, share: float) -> Iterator[None]:
    """Within the block, the model's logits are those of the mixture; with a share of 0 nothing is touched."""
    if not share:
        yield
        return
    with reading(model, memory.shape.layer) as held:

        def mix(module: Any, inputs: Any, options: dict[str, Any], output: Any) -> Any:
            hidden = _kept(held[0], options.get("logits_to_keep", 0))
            output.logits = mixture(output.logits, memory(hidden), share)
            return output

        handle = model.register_forward_hook(mix, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _kept(hidden: Tensor, columns: int | Tensor) -> Tensor:
    """The states whose logits the model gives: the last so many, all for 0, or those of the numbers given."""
    return hidden[:, columns] if isinstance(columns, Tensor) else hidden[:, -columns:]
