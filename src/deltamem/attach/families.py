"""The backbones that can carry a memory: where each keeps its projections, how a memory starts from them, and its name.

A family is one row of :data:`FAMILIES`, named after its attention class. Only names differ between most;
three layouts cover the rest.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltamem.config import DeltaMemConfig, Head
from deltamem.extensions import Table
from deltamem.files import HUB_ID
from deltamem.memory import DeltaMemory

_SAMPLED = 8
_ROUNDING = 2**-7  # what two roundings to bfloat16 may differ by
Layout = Literal["separate", "stacked", "interleaved"]


@dataclass(frozen=True)
class Family:
    """Where one attention class keeps its projections.

    Attributes:
        attention: the class name of the attention module.
        output: the name of the output projection.
        inputs: the names of the q, k and v projections, or one name if they are packed.
        layout: how a packed projection holds q, k and v: ``stacked`` one after another, ``interleaved``
            head by head.
        keywords: whether the blocks pass keywords on to the attention; if not, the cache carries the memory.
    """

    attention: str
    output: str = "o_proj"
    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    layout: Layout = "separate"
    keywords: bool = True

    @property
    def name(self) -> str:
        """The name of the attention class, which is also the family's."""
        return self.attention


FAMILIES = Table(
    "deltamem.families",
    (
        Family("Qwen2Attention"),
        Family("Qwen3Attention"),
        Family("Qwen3MoeAttention"),
        Family("LlamaAttention"),
        Family("MistralAttention"),
        Family("SmolLM3Attention"),
        Family("Gemma2Attention"),
        Family("Gemma3Attention"),
        Family("Olmo2Attention"),
        Family("GraniteAttention"),
        Family("PhiAttention", output="dense"),
        Family("Phi3Attention", inputs=("qkv_proj",), layout="stacked"),
        Family("GPT2Attention", output="c_proj", inputs=("c_attn",), layout="stacked"),
        Family("GPTNeoXAttention", output="dense", inputs=("query_key_value",), layout="interleaved"),
        Family("GPTNeoSelfAttention", output="out_proj", keywords=False),
        Family("GPTNeoFlashAttention2", output="out_proj", keywords=False),
    ),
)


def register_family(family: Family) -> None:
    """Makes :func:`deltamem.attach` accept another attention class, or another reading of a known one."""
    FAMILIES.add(family)


@dataclass(frozen=True)
class AttentionSite:
    """One attention module found in a model."""

    path: str
    module: nn.Module
    family: Family


def find_attention(model: nn.Module) -> list[AttentionSite]:
    """Every self-attention module of the model that the table knows, in layer order.

    Raises:
        ValueError: there is none.
    """
    sites, strangers = [], set()
    for path, module in model.named_modules():
        name = type(module).__name__
        family = FAMILIES.find(name)
        if family is not None and not getattr(module, "is_cross_attention", False):
            sites.append(AttentionSite(path, module, family))
        elif "attention" in name.lower():
            strangers.add(name)
    if not sites:
        seen = f"Its attention is {', '.join(sorted(strangers))}. " if strangers else "It has no attention module. "
        raise ValueError(
            f"No known attention class in {type(model).__name__}. {seen}To add one, say where it keeps its "
            "projections: deltamem.register_family(deltamem.Family('ItsAttentionClass', output='o_proj', "
            "inputs=('q_proj', 'k_proj', 'v_proj'))). Known: " + ", ".join(sorted(FAMILIES.names()))
        )
    return sites


def check_model(model: object) -> None:
    """Refuses what is not a model, such as the name of one.

    Raises:
        TypeError: it is not a model.
    """
    if not isinstance(model, nn.Module):
        advice = f": AutoModelForCausalLM.from_pretrained({model!r})" if isinstance(model, str | Path) else ""
        raise TypeError(f"Give a loaded model, not {type(model).__name__} {model!r:.80}. Load it first{advice}.")


def base_model(model: nn.Module, sites: list[AttentionSite]) -> PreTrainedModel:
    """The innermost transformers model that holds all attention layers.

    Raises:
        ValueError: no transformers model does.
    """
    holders = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, PreTrainedModel)
        and all(site.path.startswith(f"{path}." if path else "") for site in sites)
    ]
    if not holders:
        raise ValueError(f"{type(model).__name__} is not a transformers model; deltamem attaches only to those.")
    return max(holders, key=lambda holder: len(holder[0]))[1]


def find_origin(model: nn.Module) -> tuple[str | None, str | None]:
    """The Hub id and commit that a model was loaded from; ``None`` for a local folder.

    A relative folder looks like an id, and is told from one by being there: ask before the working directory changes.
    """
    config = getattr(model, "config", None)
    origin = getattr(config, "_name_or_path", None) or ""
    if not HUB_ID.fullmatch(origin) or Path(origin).exists():
        return None, None
    return origin, getattr(config, "_commit_hash", None)


def sample_weights(sites: list[AttentionSite]) -> tuple[float, ...] | None:
    """A few of the backbone's weights, by which it is known again: 8 of the output projection of three layers.

    ``None`` where they cannot be read exactly: on the meta device, sharded or quantised.
    """
    values: list[float] = []
    for site in (sites[0], sites[len(sites) // 2], sites[-1]):
        weight = getattr(_unwrapped(_module(site.module, site.family.output)), "weight", None)
        if type(weight) is not nn.Parameter or type(weight.data) is not Tensor or weight.is_meta:
            return None
        if weight.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            return None
        flat = weight.detach().flatten()
        values += flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].tolist()
    return tuple(float(f"{value:.4g}") for value in values)


def same_weights(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    """Whether two samples of :func:`sample_weights` agree but for rounding; true if one is unknown."""
    if one is None or other is None:
        return True
    close = (abs(a - b) <= _ROUNDING * max(abs(a), abs(b)) + 1e-6 for a, b in zip(one, other, strict=False))
    return len(one) == len(other) and all(close)


def put_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module in the place of the one with the dotted name ``path``."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def projection_sizes(site: AttentionSite) -> dict[Head, int]:
    """The widths of the q, k and v projections and of the attention's output."""
    family, attention = site.family, site.module
    if family.layout == "separate":
        q, k, v = (_width(attention, name) for name in family.inputs)
    else:
        total = _width(attention, family.inputs[0])
        config: Any = attention.config
        kv_heads = getattr(config, "num_key_value_heads", None) if family.layout == "stacked" else None
        k = v = total // 3 if kv_heads is None else kv_heads * int(getattr(attention, "head_dim", 0))
        q = total - k - v
    return {"q": q, "k": k, "v": v, "o": _width(attention, family.output)}


def projection_weight(site: AttentionSite, head: Head) -> Tensor:
    """The backbone's own float32 weight ``[out, in]`` of one head's projection, dequantised if need be.

    Raises:
        ValueError: the projection does not give its weight.
    """
    family = site.family
    if head == "o":
        return _weight(site, family.output)
    if family.layout == "separate":
        return _weight(site, family.inputs["qkv".index(head)])
    packed, part = _weight(site, family.inputs[0]), "qkv".index(head)
    if family.layout == "interleaved":
        heads: int = site.module.config.num_attention_heads  # type: ignore[union-attr,assignment]
        return torch.unflatten(packed, 0, (heads, 3, -1))[:, part].flatten(0, 1)
    sizes = projection_sizes(site)
    return torch.split(packed, [sizes["q"], sizes["k"], sizes["v"]])[part]


def fresh_memory(config: DeltaMemConfig, site: AttentionSite) -> DeltaMemory:
    """The untrained memory of one attention layer, on its device.

    Raises:
        ValueError: the initialisation needs a weight that the layer does not give.
    """
    hidden_size, device = projection_sizes(site)["o"], _execution_device(site.module)
    with torch.device(device):
        memory = DeltaMemory(config, hidden_size, projection_sizes(site))
    if device.type == "meta" or config.init == "zero":
        return memory
    with torch.no_grad():
        for part, weight in memory.named_parts().items():
            if part.startswith("delta_"):
                _init_head(weight, config, site, part.removeprefix("delta_"))  # type: ignore[arg-type]
    return memory


def _execution_device(attention: nn.Module) -> torch.device:
    """Where the attention runs: where accelerate's hook brings what is offloaded, else where its weights are."""
    for module in attention.modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):  # several hooks are one of their kind
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(itertools.chain(attention.parameters(), attention.buffers())).device


def _init_head(weight: Tensor, config: DeltaMemConfig, site: AttentionSite, head: Head) -> None:
    if config.init == "random":
        nn.init.kaiming_uniform_(weight, a=5**0.5).mul_(config.init_gain)
        return
    own = projection_weight(site, head)
    columns = min(config.rank, own.shape[1])
    if config.init == "base_slice_fixed":
        columns = min(columns, config.init_columns)
    unit = nn.functional.normalize(own[:, :columns], dim=0)
    weight[:, :columns] = unit * config.init_gain


def _module(attention: nn.Module, name: str) -> nn.Module:
    module = getattr(attention, name, None)
    if not isinstance(module, nn.Module):
        raise ValueError(f"{type(attention).__name__} has no projection {name!r}; its row in the table is wrong.")
    return module


def _unwrapped(module: nn.Module) -> nn.Module:
    """The layer itself, below the wrappers that PEFT and we put around it."""
    below = getattr(module, "base_layer", None)
    return _unwrapped(below) if isinstance(below, nn.Module) else module


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _width(attention: nn.Module, name: str) -> int:
    module = _unwrapped(_module(attention, name))
    if _is_transposed(module):
        return int(module.nf)  # type: ignore[arg-type]
    return int(module.out_features)  # type: ignore[arg-type]


def _weight(site: AttentionSite, name: str) -> Tensor:
    module = _unwrapped(_module(site.module, name))
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        if type(weight).dequantize is not Tensor.dequantize:  # torch's own is for quantised dtypes
            weight = weight.dequantize()
        weight = weight.t() if _is_transposed(module) else weight
    if isinstance(weight, Tensor) and weight.is_meta:
        raise ValueError(
            f"{site.path}.{name} is offloaded, so init='base_slice' cannot read its weight; use init='random' or "
            "init='zero'."
        )
    wanted = (_width(site.module, name), getattr(module, "nx" if _is_transposed(module) else "in_features", None))
    if not isinstance(weight, Tensor) or weight.shape != wanted or not weight.is_floating_point():
        raise ValueError(
            f"{site.path}.{name} ({type(module).__name__}) does not give its weight, which init='base_slice' "
            "needs; use init='random' or init='zero'."
        )
    return weight.detach().to(torch.float32)
