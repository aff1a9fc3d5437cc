"""The published release's adapter files, read and written: ``delta_mem_config.json`` and ``delta_mem_adapter.pt``.

MECHANISM.md section 7 has the table. The tensors are read without unpickling code.
"""

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltamem.config import HEADS, ConfigError, DeltaMemConfig, Head
from deltamem.files import write_atomically, write_json
from deltamem.formats.adapter import AdapterFile, AdapterFileError, BackboneShape, build_adapter, read_json

RELEASE_CONFIG_FILE = "delta_mem_config.json"
RELEASE_TENSOR_FILE = "delta_mem_adapter.pt"

_FIELDS = {
    "rank": "rank",
    "alpha": "alpha",
    "num_state_heads": "states",
    "normalize_qk": "normalize_qk",
    "couple_lambda": "coupled_gates",
    "rankwise_gates": "rowwise_gates",
    "state_update_mode": "update_rule",
    "beta_bias_init": "gate_bias",
    "output_init": "init",
    "online_gain": "init_gain",
    "base_slice_ref_width": "init_columns",
    "delta_o_rmsnorm": "output_norm",
    "delta_o_rmsnorm_eps": "output_norm_eps",
    "delta_scale_init": "scale_init",
    "delta_scale_max": "scale_max",
}
_RULES = ("standard", "lambda_outside", "no_lambda")
_WRITES = {"token": "token", "message_mean": "message", "sentence_mean": "sentence"}
_TRANSLATED = (
    "delta_heads",
    "target_layers",
    "memory_write_granularity",
    "trainable_delta_scale",
    "delta_scale_granularity",
)

# What the release can be asked for but no published adapter uses, and this package does not have.
_FIXED: dict[str, Any] = {
    "num_memory_partitions": 1,
    "num_global_memory_partitions": 0,
    "memory_partition_routing": "soft",
    "memory_partition_basis": "shared",
    "tie_memory_partition_read_write": False,
    "memory_partition_read_mode": "softmax",
    "memory_partition_sigmoid_gate_bias_init": -2.0,
    "slot_read_top_k": 0,
    "global_memory_mode": "shared_rw",
    "global_memory_read_top_k": 0,
    "global_memory_merge_mode": "gated_residual",
    "global_memory_gate_bias_init": -2.0,
    "global_memory_read_logit_bias": 0.0,
    "memory_reader_layers": [],
    "memory_reader_hidden_size": 1024,
    "memory_reader_residual_scale": 0.1,
    "memory_reader_read_only": True,
    "memory_readout_mode": "delta",
    "memory_write_source": "learned_hidden",
    "memory_write_proposals_per_message": 2,
    "synthetic_memory_slots": 1,
    "latent_memory_layers": [],
    "latent_memory_hidden_size": 1024,
    "latent_memory_residual_scale": 0.1,
    "latent_memory_slots": 4,
    "latent_memory_init_std": 0.002,
    "latent_gate_init": 0.01,
    "target_modules": ["self_attn"],
    "delta_scale_parameterization": "alpha_over_rank",
}

_PARTS = {
    "memory_q_proj": "q_proj",
    "memory_k_proj": "k_proj",
    "memory_v_proj": "v_proj",
    "beta_proj": "beta_proj",
    "beta_bias": "beta_bias",
    "lambda_proj": "lambda_proj",
    "lambda_bias": "lambda_bias",
    "delta_o_rmsnorm_weight": "output_norm",
    "delta_scale_raw": "scale",
} | {f"delta_{head}_proj": f"delta_{head}" for head in HEADS}
_THEIR_PARTS = {ours: theirs for theirs, ours in _PARTS.items()}
_TENSOR_NAME = re.compile(r"model\.layers\.(\d+)\.self_attn\.(\w+)")


def config_from_release(fields: dict[str, Any]) -> DeltaMemConfig:
    """Our configuration for the 49 fields of a release's; segments are read by call, as there.

    Raises:
        AdapterFileError: a field is missing, unknown, or asks for what this package does not have.
    """
    known = {*_FIELDS, *_TRANSLATED, *_FIXED}
    for kind, names in (("lacks", known - fields.keys()), ("has the unknown", fields.keys() - known)):
        if names:
            raise AdapterFileError(f"The release's configuration {kind} field {', '.join(sorted(names))}.")
    for name, legal in _FIXED.items():
        if fields[name] != legal or isinstance(fields[name], bool) != isinstance(legal, bool):
            raise AdapterFileError(f"{name} is {fields[name]!r}; only {legal!r} is supported.")
    choices = {
        "memory_write_granularity": tuple(_WRITES),
        "delta_scale_granularity": ("layer", "head"),
        "state_update_mode": _RULES,
    }
    for name, allowed in choices.items():
        if fields[name] not in allowed:
            raise AdapterFileError(f"{name} is {fields[name]!r}; wanted one of {', '.join(allowed)}.")
    kinds: dict[str, type] = {"delta_heads": list, "target_layers": list, "trainable_delta_scale": bool}
    for name, wanted in kinds.items():
        if not isinstance(fields[name], wanted):
            raise AdapterFileError(f"{name} must be of type {wanted.__name__}, not {fields[name]!r}.")
    ours = {our_name: fields[name] for name, our_name in _FIELDS.items()}
    ours |= {
        "heads": fields["delta_heads"],
        "layers": fields["target_layers"] or "all",
        "write": _WRITES[fields["memory_write_granularity"]],
        "segment_reads": "call",
        "scale": fields["delta_scale_granularity"] if fields["trainable_delta_scale"] else "none",
    }
    try:
        return DeltaMemConfig.from_dict(ours)
    except ConfigError as error:
        theirs = {our_name: name for name, our_name in _FIELDS.items()}
        theirs |= {"heads": "delta_heads", "layers": "target_layers", "scale": "delta_scale_granularity"}
        raise AdapterFileError(f"{theirs[error.field]} {error.problem}") from None


def config_to_release(config: DeltaMemConfig, layers: tuple[int, ...]) -> dict[str, Any]:
    """The release's 49 fields for our configuration on these layers.

    Raises:
        AdapterFileError: the release cannot express it.
    """
    if config.writes_segments and config.segment_reads != "call":
        raise AdapterFileError(
            "The release reads segments by call only, and this adapter has segment_reads='closed'; "
            "it would answer differently there."
        )
    kinds = config.update_rule in _RULES and config.write in _WRITES.values()
    if not kinds or config.gates == "fixed" or config.key_tokens > 1:
        raise AdapterFileError(
            f"The release has learned gates, key_tokens=1, the update rules {', '.join(_RULES)} and the write "
            f"strategies {', '.join(_WRITES.values())} only; this adapter has update_rule={config.update_rule!r}, "
            f"gates={config.gates!r}, key_tokens={config.key_tokens} and write={config.write!r}."
        )
    fields = {name: getattr(config, our_name) for name, our_name in _FIELDS.items()}
    fields |= {
        "delta_heads": list(config.heads),
        "target_layers": [] if config.layers == "all" else list(layers),
        "memory_write_granularity": {ours: theirs for theirs, ours in _WRITES.items()}[config.write],
        "trainable_delta_scale": config.scale != "none",
        "delta_scale_granularity": "layer" if config.scale == "none" else config.scale,
    }
    return fields | _FIXED


def lost_in_release(adapter: AdapterFile) -> dict[str, tuple[Any, Any]]:
    """The fields that the release's format does not keep: what an adapter has, and what it comes back with.

    An adapter that comes back otherwise has another fingerprint, so memories of the one are refused by the other.

    Raises:
        AdapterFileError: the release cannot express it.
    """
    back = config_from_release(config_to_release(adapter.config, adapter.layer_numbers))
    pairs = {
        field.name: (getattr(adapter.config, field.name), getattr(back, field.name))
        for field in dataclasses.fields(back)
    }
    return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}


def read_release(folder: Path) -> AdapterFile:
    """Reads an adapter folder of the release.

    Raises:
        AdapterFileError: a file is missing or damaged, or the adapter is of a kind that is not supported.
    """
    try:
        config = config_from_release(read_json(folder / RELEASE_CONFIG_FILE))
    except AdapterFileError as error:
        raise AdapterFileError(f"{folder / RELEASE_CONFIG_FILE}: {error}") from None
    path = folder / RELEASE_TENSOR_FILE
    by_layer = _by_layer(_unpickled(path), path)
    first = next(iter(by_layer.values()))
    for name in ("q_proj", *(f"delta_{head}" for head in config.heads)):
        if name not in first or first[name].dim() != 2:
            raise AdapterFileError(f"{path} lacks the matrix {_THEIR_PARTS[name]}.")
    outputs: dict[Head, int | tuple[int, ...]] = {
        h: first[f"delta_{h}"].shape[0] for h in HEADS if f"delta_{h}" in first
    }
    total = len(by_layer) if config.layers == "all" else None
    tensors: dict[str, Tensor] = {}
    for layer, parts in by_layer.items():
        for part, tensor in parts.items():
            if not _is_unused(part, config):
                tensors[f"layers.{layer}.{part}"] = tensor
            elif part != "output_norm" and tensor.any():
                theirs = _THEIR_PARTS[part]
                raise AdapterFileError(f"{path} has weights in {theirs}, a head that delta_heads does not choose.")
    return build_adapter(folder, config, tensors, BackboneShape(first["q_proj"].shape[1], total, outputs))


def write_release(adapter: AdapterFile, folder: Path) -> None:
    """Writes an adapter in the release's format.

    Raises:
        AdapterFileError: the release cannot express it.
        OSError: the folder cannot be written.
    """
    config = adapter.config
    if missing := set(HEADS) - adapter.backbone.outputs.keys():
        raise AdapterFileError(
            f"The release's file holds all four heads, and this adapter does not say how wide {sorted(missing)} are."
        )
    fields = config_to_release(config, adapter.layer_numbers)
    tensors: dict[str, Tensor] = {}
    for layer in adapter.layer_numbers:
        parts: dict[str, Tensor] = {
            f"delta_{head}": torch.zeros(width, config.width) for head, width in adapter.backbone.at(layer).items()
        }
        if config.output_norm:
            parts["output_norm"] = torch.ones(adapter.backbone.hidden_size)
        prefix = f"layers.{layer}."
        parts |= {n.removeprefix(prefix): t for n, t in adapter.tensors.items() if n.startswith(prefix)}
        tensors |= {f"model.layers.{layer}.self_attn.{_THEIR_PARTS[part]}": t for part, t in parts.items()}
    written = io.BytesIO()
    torch.save(tensors, written)
    write_atomically(folder / RELEASE_TENSOR_FILE, written.getvalue())
    write_json(folder / RELEASE_CONFIG_FILE, fields)


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise AdapterFileError(f"Cannot read {path}: {error.strerror}.") from None
    except Exception:
        # Malformed bytes raise whatever they come to. torch's own message advises to load the file with its code.
        raise AdapterFileError(
            f"{path} is damaged, or holds code or other things than tensors; nothing of it was loaded or run. "
            "Fetch it again from someone you trust."
        ) from None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise AdapterFileError(f"{path} must hold a dictionary of tensors.")
    if not found:
        raise AdapterFileError(f"{path} holds no tensors.")
    return found


def _by_layer(found: dict[str, Tensor], path: Path) -> dict[int, dict[str, Tensor]]:
    by_layer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        match = _TENSOR_NAME.fullmatch(str(name))
        if match is None or match[2] not in _PARTS:
            raise AdapterFileError(f"{path} holds an unknown tensor {name!r}.")
        by_layer.setdefault(int(match[1]), {})[_PARTS[match[2]]] = tensor
    return by_layer


def _is_unused(part: str, config: DeltaMemConfig) -> bool:
    if part == "output_norm":
        return config.output_norm and "o" not in config.heads
    return part.startswith("delta_") and part.removeprefix("delta_") not in config.heads
