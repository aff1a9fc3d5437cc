"""What is compared: a bare backbone, the same with a memory, and the same with a LoRA, with one set of weights."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from transformers import DynamicCache

from deltamem.attach import attach, attached
from deltamem.formats.hub import load_adapter
from deltamem_lab.backbone import empty_cache
from deltamem_lab.methods.lora import LoraPlan, add_lora, lora_bytes, using_lora

Kind = Literal["bare", "delta-mem", "lora"]
_NAME = "measured"


@dataclass(frozen=True)
class Side:
    """A backbone as it is measured.

    Attributes:
        name: ``bare``, ``delta-mem`` or ``lora``.
        model: the backbone; all sides share the tensors of its weights.
        adapter_bytes: the weights that the side has beside them.
    """

    name: Kind
    model: Any
    adapter_bytes: int = 0

    def new_cache(self, ids: Tensor) -> DynamicCache:
        """A cache for prompts ``[B, T]``; δ-mem's starts with an empty memory, which is written as tokens are read."""
        if self.name != "delta-mem":
            return empty_cache(self.model)
        attachment = attached(self.model)
        # The prompt is one segment, for adapters that write once a segment.
        return attachment.new_cache(segment_ids=ids.new_zeros(ids.shape) if attachment.config.writes_segments else None)

    def on(self) -> AbstractContextManager[None]:
        """Within the block the model is this side."""
        return using_lora(self.model, _NAME) if self.name == "lora" else nullcontext()


def sides_of(model: Any, adapter: str | None = None) -> tuple[list[Side], str]:
    """The sides of a bare backbone, in the order in which they take turns, and why the LoRA is not among them, if so.

    The LoRA is the published baseline's: rank 8 on the query, key, value and output projections, not merged, its
    weights in float32 as PEFT keeps them. What an adapter's weights are does not change what they cost.

    Args:
        model: the backbone, which carries nothing.
        adapter: a δ-mem adapter, a folder or a Hub id; a fresh one with the published configuration by default.

    Raises:
        AdapterFileError: the adapter is not there, or belongs to another backbone.
        ValueError: the backbone's attention is unknown.
    """
    remembering, low_rank = _twin(model), _twin(model)
    if adapter is None:
        attach(remembering, name=_NAME)
    else:
        load_adapter(remembering, adapter, _NAME)
    size = sum(parameter.nbytes for memory in attached(remembering).memories() for parameter in memory.parameters())
    sides = [Side("bare", model), Side("delta-mem", remembering, size)]
    try:
        add_lora(low_rank, _NAME, LoraPlan())
    except ImportError as error:
        return sides, str(error)
    return [*sides, Side("lora", low_rank, lora_bytes(low_rank, _NAME))], ""


def _twin(model: Any) -> Any:
    """Another module tree around the same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
