"""Saved MLPs, a folder each, and the MLPs that have been loaded for a backbone."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from deltamem.files import write_atomically, write_json
from deltamem.version import __version__
from deltamem_lab.methods.bare import backbone_fingerprint
from deltamem_lab.methods.mlp_memory.network import MlpMemory, MlpShape, feed_forward, without_weights

CONFIG_FILE = "mlp_memory.json"
TENSOR_FILE = "mlp_memory.safetensors"
_FORMAT = "deltamem-mlp-memory"
_VERSION = 1
_PLACE = "mlp_memories"


@dataclass(frozen=True)
class LoadedMemory:
    """An MLP for a backbone, the share λ of its distribution in the mixture, and the SHA-256 of its weights."""

    memory: MlpMemory
    share: float
    sha256: str


def is_mlp_memory(folder: str | Path) -> bool:
    """Whether a folder holds an MLP that :func:`save_memory` has written."""
    return (Path(folder) / CONFIG_FILE).is_file() and (Path(folder) / TENSOR_FILE).is_file()


def save_memory(memory: MlpMemory, folder: str | Path, model: Any, *, share: float, base: str = "") -> None:
    """Writes an MLP and what it belongs to.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in memory.state_dict().items()}
    description = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "deltamem_version": __version__,
        "base_model": base or None,
        "backbone": backbone_fingerprint(model),
        "shape": dataclasses.asdict(memory.shape),
        "share": _share(share),
        "sha256": _digest(tensors),
    }
    write_atomically(Path(folder) / TENSOR_FILE, save(tensors))
    write_json(Path(folder) / CONFIG_FILE, description)


def load_memory(model: Any, folder: str | Path, name: str) -> None:
    """Puts a saved MLP beside its backbone; it is read only by the method that asks for it.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is missing or damaged, or the MLP was trained on another backbone; or the name is taken.
    """
    if name in memories(model):
        raise ValueError(f"There is an MLP memory named {name!r} already; choose another name.")
    if not is_mlp_memory(folder):
        raise ValueError(f"{folder} is not an MLP memory; it needs {CONFIG_FILE} and {TENSOR_FILE}.")
    found = _read(Path(folder))
    if model.device.type != "meta" and found["backbone"] != backbone_fingerprint(model):
        trained = found["base_model"] or f"the one with the fingerprint {str(found['backbone'])[:12]}…"
        raise ValueError(f"{folder} belongs to another backbone: it was trained on {trained}; train one on this.")
    memory, share = without_weights(MlpShape(**found["shape"])), _share(found["share"])
    feed_forward(model, memory.shape.layer)
    sha256 = _fill(memory, Path(folder) / TENSOR_FILE)
    if sha256 != found["sha256"]:
        raise ValueError(f"{folder}: {TENSOR_FILE} is not the one that {CONFIG_FILE} was written with; save it again.")
    memory.requires_grad_(False).float().to(model.device)
    setattr(model, _PLACE, {**memories(model), name: LoadedMemory(memory, share, sha256)})


def memories(model: Any) -> dict[str, LoadedMemory]:
    """The MLPs that have been loaded for a backbone, in the order they came."""
    return getattr(model, _PLACE, {})


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict) or (found.get("format"), found.get("format_version")) != (_FORMAT, _VERSION):
        raise ValueError(f"{path} is not of the format {_FORMAT} {_VERSION}, the only one that this deltamem reads.")
    fields = {field.name for field in dataclasses.fields(MlpShape)}
    shape = found.get("shape")
    if not isinstance(shape, dict) or set(shape) != fields or not all(isinstance(size, int) for size in shape.values()):
        raise ValueError(f"{path} has no whole shape; train the MLP again.")
    if missing := [name for name in ("base_model", "backbone", "share", "sha256") if name not in found]:
        raise ValueError(f"{path} lacks {missing[0]}; train the MLP again.")
    return found


def _fill(memory: MlpMemory, path: Path) -> str:
    """Gives an MLP the weights of a file, and tells their SHA-256."""
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
        memory.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or of another shape ({error}); train it again.") from None
    return _digest(tensors)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"The share of an MLP memory must be between 0 and 1, not {value!r}.")
    return float(value)
