"""Saved MLPs, a folder each, and the MLPs that have been loaded for a backbone."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem_lab.methods.folders import DescriptionFile, load_weights, save_weights
from deltamem_lab.methods.mlp_memory.network import MlpMemory, MlpShape, feed_forward, without_weights

CONFIG_FILE = "mlp_memory.json"
TENSOR_FILE = "mlp_memory.safetensors"
_DESCRIPTION = DescriptionFile("an MLP memory", CONFIG_FILE, "deltamem-mlp-memory", 1, ("shape", "share", "sha256"))
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
    share = _share(share)
    save_weights(memory, Path(folder) / TENSOR_FILE)
    shape = dataclasses.asdict(memory.shape)
    _DESCRIPTION.write(Path(folder), model, base, shape=shape, share=share, sha256=_digest(memory))


def load_memory(model: Any, folder: str | Path, name: str) -> None:
    """Puts a saved MLP beside its backbone; it is read only by the method that asks for it.

    A backbone without weights takes any MLP of its sizes.

    Raises:
        ValueError: a file is missing or damaged, or the MLP was trained on another backbone; or the name is taken.
    """
    if name in memories(model):
        raise ValueError(f"There is an MLP memory named {name!r} already; choose another name.")
    path = Path(folder)
    found = _DESCRIPTION.read(path, model)
    try:
        memory = without_weights(MlpShape(**found["shape"]))
        feed_forward(model, memory.shape.layer)
    except TypeError:
        raise ValueError(f"{path / CONFIG_FILE} has no whole shape; train the MLP again.") from None
    share = _share(found["share"])
    load_weights(memory, path / TENSOR_FILE)
    if _digest(memory) != found["sha256"]:
        raise ValueError(f"{path}: {TENSOR_FILE} is not the one that {CONFIG_FILE} was written with; save it again.")
    memory.requires_grad_(False).float().to(model.device)
    setattr(model, _PLACE, {**memories(model), name: LoadedMemory(memory, share, found["sha256"])})


def memories(model: Any) -> dict[str, LoadedMemory]:
    """The MLPs that have been loaded for a backbone, in the order they came."""
    return getattr(model, _PLACE, {})


def _digest(memory: MlpMemory) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(memory.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"The share of an MLP memory must be between 0 and 1, not {value!r}.")
    return float(value)
