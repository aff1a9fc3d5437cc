"""The module that is wrapped for several processes: one call of it is one step, or one batch measured."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.formats.adapter import AdapterFile
from deltamem.formats.hub import backbone_shape, hub_origin
from deltamem.memory import DeltaMemory
from deltamem.train.episodes import EpisodeBatch
from deltamem.train.measure import Condition, Tally, tally
from deltamem.train.objective import EpisodeObjective, ObjectiveResult
from deltamem.train.options import ObjectiveOptions


class EpisodeModule(EpisodeObjective):
    """The objective, which can also measure: whatever shards or casts a model sees every pass through this call."""

    def __init__(self, model: PreTrainedModel, options: ObjectiveOptions) -> None:
        super().__init__(model, options)
        # The layers that FSDP shards one by one.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(  # type: ignore[override]
        self, batch: EpisodeBatch, step: int = 0, condition: Condition | None = None
    ) -> ObjectiveResult | Tally:
        """What a batch costs at a step, or without gradients in a condition."""
        if condition is None:
            return super().forward(batch, step)
        return tally(self.model, batch, condition, self.options.writing)


def trained_weight(batch: EpisodeBatch) -> float:
    """The sum of the loss weights of a batch, which its share in a larger one goes by."""
    parts = (*batch.passages, batch.queries)
    return sum(part.weights[:, 1:].sum().item() for part in parts)


@torch.no_grad()
def gather_adapter(model: PreTrainedModel) -> AdapterFile:
    """The model's active adapter, whole on every process; to be called on all of them.

    Under FSDP the parameters lie in pieces; they are put together here.
    """
    attachment = attached(model)
    tensors: dict[str, Tensor] = {}
    for layer, memory in zip(attachment.layer_numbers(), attachment.memories(), strict=True):
        whole = _like(memory)
        for name, parameter in memory.named_parameters():
            pieces: Any = parameter
            whole.get_parameter(name).copy_(pieces.full_tensor() if _is_sharded(parameter) else parameter)
        tensors |= {f"layers.{layer}.{part}": tensor for part, tensor in whole.named_parts().items()}
    origin = hub_origin(model)
    return AdapterFile(attachment.config, tensors, backbone_shape(model), *origin, attachment.sample)


@torch.no_grad()
def fill_adapter(model: PreTrainedModel, adapter: AdapterFile) -> None:
    """Gives the model's active adapter the values of one of the same shape, sharded or not."""
    attachment = attached(model)
    for layer, memory in zip(attachment.layer_numbers(), attachment.memories(), strict=True):
        whole = _like(memory)
        for part, tensor in whole.named_parts().items():
            tensor.copy_(adapter.tensors[f"layers.{layer}.{part}"])
        for name, parameter in memory.named_parameters():
            value: Tensor = whole.get_parameter(name).to(parameter.device)
            if _is_sharded(parameter):
                from torch.distributed.tensor import distribute_tensor

                sharded: Any = parameter
                value = distribute_tensor(value, sharded.device_mesh, sharded.placements)
            parameter.copy_(value)


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "full_tensor")


def _like(memory: DeltaMemory) -> DeltaMemory:
    """Another memory of the same shape, on the CPU."""
    return DeltaMemory(memory.config, memory.projection.shape[1], memory.outputs)
