"""vLLM's backbones with memories. Each is vLLM's own class; its attention modules are wrapped, and nothing else.

The wrapper adopts the children of the attention module, so that parameters keep their names and loading and sharding
stay as they are.
"""
# vLLM is not there where the product's own checks run, and its classes are then of any type
# mypy: allow-subclassing-any, disable-error-code="no-any-return"

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.utils.torch_utils import direct_register_custom_op

from deltamem.config import Head
from deltamem.formats.adapter import AdapterFile, AdapterFileError, BackboneShape
from deltamem.formats.hub import read_adapter_from
from deltamem.memory import Corrections, DeltaMemory
from deltamem.vllm.check import adapter_of, check_setup, check_version, speculated
from deltamem.vllm.rings import Rings

KEY = "deltamem"
"""The name under which a process's :class:`Memories` are found in vLLM's `static_forward_context`."""


class Memories(NamedTuple):
    """What a process keeps for the memories of a model: found by the connector under :data:`KEY`.

    Attributes:
        rings: the memories.
        fingerprint: of the adapter.
    """

    rings: Rings
    fingerprint: str


class _Projected(nn.Module):
    """In place of an attention module's packed projection: what it is called with is projected already."""

    def forward(self, projected: Tensor) -> tuple[Tensor, None]:
        return projected, None


def _own_part(projection: Any, widths: dict[Head, int], weights: Corrections) -> tuple[slice, Tensor]:
    """Which part of a packed projection's output is corrected, and what makes the correction of the reads.

    The part reaches from the first head that is corrected to the last. With tensor parallelism each worker reads and
    writes the whole memory, and corrects the heads that are its own.

    Args:
        projection: vLLM's.
        widths: of the heads that it packs, on this worker, in their order.
        weights: of the corrected heads, of the whole model.
    """
    shared = projection.tp_rank // projection.num_kv_head_replicas
    shard = {"q": projection.tp_rank, "k": shared, "v": shared}
    ends = dict(zip(widths, itertools.accumulate(widths.values()), strict=True))
    parts = {head: slice(ends[head] - widths[head], ends[head]) for head in widths if head in weights}
    whole = torch.zeros(sum(widths.values()), next(iter(weights.values())).shape[1])
    for head, part in parts.items():
        whole[part] = weights[head][shard[head] * widths[head] : (shard[head] + 1) * widths[head]]
    reach = slice(min(part.start for part in parts.values()), max(part.stop for part in parts.values()))
    return reach, whole[reach]


def _fold(projection: Any, more: Tensor) -> bool:
    """Has a packed projection make more columns, after its own: one product is quicker than two.

    Its own weights are loaded later, into the first rows.

    Args:
        projection: vLLM's.
        more: float32, what makes the columns.

    Returns:
        Whether it did; its weights have to be float32 too, and not quantised.
    """
    weight, bias = getattr(projection, "weight", None), projection.bias
    if weight is None or weight.dtype != torch.float32:
        return False
    weight.data = torch.cat((weight.data, more.data))
    if bias is not None:
        bias.data = torch.cat((bias.data, bias.new_zeros(len(more))))
    return True


def _linear(weight: Tensor) -> ReplicatedLinear:
    """A product with a float32 weight, which vLLM packs for the machine when it has loaded the model."""
    width, size = weight.shape
    layer = ReplicatedLinear(size, width, bias=False, params_dtype=torch.float32, return_bias=False)
    layer.weight.data.copy_(weight)
    return layer


class RememberingAttention(nn.Module):
    """An attention module of vLLM's with the memory of its layer.

    Args:
        attention: vLLM's module, with a packed `qkv_proj` and an `o_proj`.
        memory: the layer's memory.
        memories: what the process keeps.
        index: which of the layers that remember it is.
        name: what the layer is called in vLLM's `static_forward_context`.
    """

    def __init__(self, attention: nn.Module, memory: DeltaMemory, memories: Memories, index: int, name: str) -> None:
        super().__init__()
        self._modules.update(attention.named_children())
        widths: dict[Head, int] = {"q": attention.q_size, "k": attention.kv_size, "v": attention.kv_size}  # type: ignore[dict-item]
        self.__dict__["_attention"] = attention  # not as a child: its children are ours now
        weights = memory.correction_weights()
        makers = [weights.pop("o")] if "o" in weights else []
        self.corrects_output = bool(makers)
        self.normalises = memory.config.output_norm
        self.entering, self.part = 0, slice(0)
        if weights:
            self.part, maker = _own_part(attention.qkv_proj, widths, weights)
            makers.insert(0, maker)
            self.entering = len(maker)
        self.memory = memory
        self.own_width = sum(widths.values())
        self.memory_in = None if _fold(attention.qkv_proj, memory.projection) else _linear(memory.projection)
        attention.qkv_proj = _Projected()
        self.memory_out = _linear(torch.cat(makers))
        self.memories = memories.rings
        self.scan = memory.packed(memories.rings.values[index])
        self.name = name
        self.attention_name: str = attention.attn.layer_name  # type: ignore[assignment,union-attr]

    def __getattr__(self, name: str) -> Any:
        """What other code asks of the attention module it answers itself."""
        modules = self.__dict__.get("_modules", {})
        return modules[name] if name in modules else getattr(self.__dict__["_attention"], name)

    def forward(self, positions: Tensor, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The attention's own forward over `[T, D]`, corrected by what the memory reads."""
        packed, _ = self.qkv_proj(hidden_states)
        qkv, projected = packed[..., : self.own_width], packed[..., self.own_width :]
        if self.memory_in is not None:
            projected = self.memory_in(hidden_states.float())
        if torch.compiler.is_compiling():
            reads = torch.ops.vllm.deltamem_read_and_write(projected, self.name, self.memory.config.width)
        else:
            reads = self.read_and_write(projected)
        corrections = self.memory_out(reads)
        if self.entering:
            qkv[..., self.part] += corrections[..., : self.entering].to(qkv.dtype)
        output: Tensor = self.__dict__["_attention"](positions=positions, hidden_states=qkv, **kwargs)
        if self.corrects_output:
            correction = corrections[..., self.entering :]
            if self.normalises:
                correction = self.memory.normed(correction)
            output += correction.to(output.dtype)
        return output

    def read_and_write(self, projected: Tensor) -> Tensor:
        """The reads `[T, N·R]` of a step's tokens, which are written."""
        metadata = get_forward_context().attn_metadata
        if metadata is None:  # a pass that measures or warms up
            return projected.new_zeros(len(projected), self.memory.config.width)
        return self.scan(projected, self.memories.batch(metadata[self.attention_name]))


def _read_and_write(projected: torch.Tensor, layer_name: str, width: int) -> torch.Tensor:
    layer: RememberingAttention = get_forward_context().no_compile_layers[layer_name]
    return layer.read_and_write(projected)


def _shape_only(projected: torch.Tensor, layer_name: str, width: int) -> torch.Tensor:
    return projected.new_empty(projected.shape[0], width)  # len() would make the number of tokens a constant


if not hasattr(torch.ops.vllm, "deltamem_read_and_write"):
    direct_register_custom_op(
        op_name="deltamem_read_and_write", op_func=_read_and_write, mutates_args=[], fake_impl=_shape_only
    )


class _Remembering:
    """What each family gets: its attention wrapped, and the adapter loaded."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        check_version()
        check_setup(vllm_config)
        adapter = read_adapter_from(adapter_of(vllm_config))
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._adapt_layers()
        self._put_memories(adapter, vllm_config)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded: set[str] = super().load_weights(weights)  # type: ignore[misc]
        ours = {name for name, _ in self.named_parameters() if ".memory" in name}  # type: ignore[attr-defined]
        return loaded | ours

    def _adapt_layers(self) -> None:
        """What a family changes in its layers before they get memories."""

    def _put_memories(self, adapter: AdapterFile, vllm_config: VllmConfig) -> None:
        layers: Any = self.model.layers  # type: ignore[attr-defined]
        shape = _shape_of(layers)
        if differences := adapter.backbone.differences(shape):
            raise AdapterFileError(
                f"This adapter was made for a backbone with {'; '.join(differences)} (as {type(self).__name__} has)."
            )
        config = adapter.config
        if config.writes_segments:
            raise AdapterFileError(
                f"This adapter writes once per {config.write}; on vLLM memories are written token by token only. Serve "
                "it with deltamem's own engine (--engine own), or take an adapter with write='token'."
            )
        numbers = config.select_layers(len(layers))
        requests = vllm_config.scheduler_config.max_num_seqs
        drafted = speculated(vllm_config)
        rings = Rings(len(numbers), config.states, config.rank, requests, drafted, config.key_tokens)
        memories = Memories(rings, adapter.fingerprint)
        known = vllm_config.compilation_config.static_forward_context
        known[KEY] = memories
        for index, number in enumerate(numbers):
            layer, name = layers[number], f"model.layers.{number}.self_attn.memory"
            memory = _load(adapter, number, shape.at(number))
            layer.self_attn = RememberingAttention(layer.self_attn, memory, memories, index, name)
            known[name] = layer.self_attn


def _shape_of(layers: Iterable[Any]) -> BackboneShape:
    sizes: list[dict[Head, int]] = []
    for layer in layers:
        attention = layer.self_attn
        q, kv = (getattr(attention, name) * attention.head_dim for name in ("total_num_heads", "total_num_kv_heads"))
        sizes.append({"q": q, "k": kv, "v": kv, "o": attention.hidden_size})
    return BackboneShape.of(sizes)


def _load(adapter: AdapterFile, number: int, outputs: dict[Head, int]) -> DeltaMemory:
    memory = DeltaMemory(adapter.config, adapter.backbone.hidden_size, outputs).float()
    with torch.no_grad():
        for part, tensor in memory.named_parts().items():
            tensor.copy_(adapter.tensors[f"layers.{number}.{part}"])
    return memory.requires_grad_(False)


class DeltaMemLlamaForCausalLM(_Remembering, LlamaForCausalLM):
    """Llama, SmolLM2 and all that vLLM runs as a Llama."""


class DeltaMemMistralForCausalLM(_Remembering, MistralForCausalLM):
    """Mistral, where its attention has no window."""


class DeltaMemQwen2ForCausalLM(_Remembering, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5."""


class DeltaMemQwen3ForCausalLM(_Remembering, Qwen3ForCausalLM):
    """Qwen3."""


class DeltaMemSmolLM3ForCausalLM(_Remembering, LlamaForCausalLM):
    """SmolLM3: a Llama of which some layers know no positions."""

    def _adapt_layers(self) -> None:
        config = self.config
        for layer, rotates in zip(self.model.layers, config.no_rope_layers, strict=True):
            if not rotates:
                layer.self_attn.rotary_emb = _NoPositions()


class _NoPositions(nn.Module):
    """In place of a rotary embedding."""

    def forward(self, positions: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return query, key
