"""MLP Memory as a method: the full context, read by the backbone with the MLP's distribution mixed in."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from deltamem.chat import Message
from deltamem_lab.backbone import Generated
from deltamem_lab.interface import Ask, Entry
from deltamem_lab.methods.base import Weights
from deltamem_lab.methods.mlp_memory.files import is_mlp_memory, load_memory, memories
from deltamem_lab.methods.mlp_memory.network import MlpMemory, reading
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.text import TrainedContext


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


@method("mlp_memory", "MLP Memory", "trained")
class MixedMemory(TrainedContext):
    """The full context, with an MLP that was trained on the adapters' data.

    Sampled answers draw from the mixture's probabilities, to which temperature and the like are applied.
    """

    weights = Weights("mlp", is_mlp_memory, load_memory)
    what, command = "an MLP memory", "mlp-memory"
    loaded = staticmethod(memories)

    @property
    def fingerprint(self) -> str:
        """The MLP's."""
        return str(self.trained.sha256)

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Everything."""
        return [(self.history, {"mlp_memory": self.label, "share": self.trained.share})] * len(asks)

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """The answers of the mixture."""
        with mixing(self.backbone.model, self.trained.memory, self.trained.share):
            return super().say(prompts, asks)
