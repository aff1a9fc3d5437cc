"""Memories as files: one safetensors file that knows which adapter it belongs to and whether it is whole."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from deltamem.attach import attached
from deltamem.files import from_json, is_text, write_atomically
from deltamem.formats.hub import adapter_fingerprint, hub_origin
from deltamem.formats.versions import Format
from deltamem.state import MemoryState, OpenSegment

FORMAT = Format("deltamem-state")
_KEY = "deltamem"
Unpacked = TypeVar("Unpacked")


class StateFileError(ValueError):
    """A saved memory that is damaged, or belongs to another adapter."""


@dataclass(frozen=True)
class StateInfo:
    """What a saved memory says of itself.

    Attributes:
        fingerprint: the adapter it belongs to, see :func:`deltamem.adapter_fingerprint`.
        backbone: Hub id of the backbone, if known.
        tokens: how many tokens each row has written.
    """

    fingerprint: str
    backbone: str | None
    tokens: tuple[int, ...]


def save_state(state: MemoryState, path: str | Path, model: nn.Module) -> None:
    """Saves a memory of the model's active adapter to one file, replacing what was there.

    Raises:
        StateFileError: the memory does not have the adapter's shape.
        ValueError: the model carries no memory.
        OSError: the file cannot be written.
    """
    write_atomically(Path(path), state_to_bytes(state, model))


def load_state(path: str | Path, model: nn.Module) -> MemoryState:
    """Loads a memory for the model's active adapter, onto the adapter's device.

    Raises:
        StateFileError: the file is missing, damaged, of a newer format, or belongs to another adapter.
        ValueError: the model carries no memory.
    """
    return _read(Path(path), StateCodec(model).unpack)


def state_to_bytes(state: MemoryState, model: nn.Module) -> bytes:
    """What :func:`save_state` writes, for a store or for sending.

    Raises:
        StateFileError: the memory does not have the active adapter's shape.
        ValueError: the model carries no memory.
    """
    return StateCodec(model).pack(state)


def state_from_bytes(data: bytes, model: nn.Module) -> MemoryState:
    """The inverse of :func:`state_to_bytes`.

    Raises:
        StateFileError: the bytes are damaged, of a newer format, or from another adapter.
        ValueError: the model carries no memory.
    """
    return StateCodec(model).unpack(data)


class StateCodec:
    """:func:`state_to_bytes` and :func:`state_from_bytes` for many memories of one adapter that does not change.

    What belongs to the adapter is worked out once.

    Attributes:
        fingerprint: of the adapter.

    Args:
        model: a model with an active adapter.
        rows: how many sessions a memory must hold; any number by default.

    Raises:
        ValueError: the model carries no memory.
    """

    def __init__(self, model: nn.Module, rows: int | None = None) -> None:
        self._rows = rows
        self.fingerprint = adapter_fingerprint(model)
        self._backbone = hub_origin(model)[0]
        self._empty = attached(model).new_state(1).tensors()

    def pack(self, state: MemoryState) -> bytes:
        """A memory's bytes.

        Raises:
            StateFileError: the memory does not have the adapter's shape.
        """
        self._check_fit(state)
        return pack_state(state, StateInfo(self.fingerprint, self._backbone, tuple(state.tokens.tolist())))

    def unpack(self, data: bytes) -> MemoryState:
        """The inverse of :meth:`pack`, onto the adapter's device.

        Raises:
            StateFileError: the bytes are damaged, of a newer format or another adapter's, or hold numbers that are
                not finite or another number of sessions.
        """
        state, info = unpack_state(data)
        if info.fingerprint != self.fingerprint:
            raise StateFileError(
                f"This memory was written by another adapter ({info.fingerprint[:12]}…) than the active one "
                f"({self.fingerprint[:12]}…), which cannot read it. Load the adapter that wrote it."
            )
        if None not in (info.backbone, self._backbone) and info.backbone != self._backbone:
            raise StateFileError(f"This memory was written on {info.backbone}; this model is {self._backbone}.")
        self._check_fit(state)
        if self._rows not in (None, state.batch):
            raise StateFileError(f"This memory holds {state.batch} sessions; wanted {self._rows}.")
        if not all(bool(t.isfinite().all()) for t in state.tensors().values()):
            raise StateFileError("This memory holds numbers that are not finite.")
        return state.to(self._empty["tokens"].device)

    def _check_fit(self, state: MemoryState) -> None:
        found = state.tensors()
        if found.keys() != self._empty.keys():
            raise StateFileError(
                f"The memory holds {len(state.states)} layers{', and an open segment' if state.open else ''}; the "
                "active adapter's holds something else. It belongs to another adapter."
            )
        for name, row in self._empty.items():
            tensor, wanted = found[name], (state.batch, *row.shape[1:])
            if tensor.shape != wanted or tensor.dtype != row.dtype:
                raise StateFileError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)} in this memory; the active adapter wants "
                    f"{row.dtype} {list(wanted)}."
                )


def read_state(path: str | Path) -> tuple[MemoryState, StateInfo]:
    """A saved memory and what it says of itself, without a model.

    Raises:
        StateFileError: the file is missing, damaged, or of a newer format.
    """
    return _read(Path(path), unpack_state)


def pack_state(state: MemoryState, info: StateInfo) -> bytes:
    """A memory and its description as the bytes of a safetensors file."""
    tensors = _to_tensors(state)
    description: dict[str, Any] = {
        **FORMAT.label,
        "fingerprint": info.fingerprint,
        "backbone": info.backbone,
        "tokens": list(info.tokens),
        "rows": state.batch,
        "shapes": {name: list(t.shape) for name, t in tensors.items()},
    }
    description["sha256"] = _checksum(description, tensors)
    return save(tensors, {_KEY: json.dumps(description, sort_keys=True)})


def unpack_state(data: bytes) -> tuple[MemoryState, StateInfo]:
    """The inverse of :func:`pack_state`.

    Raises:
        StateFileError: the bytes are damaged, of a newer format, or no memory.
    """
    try:
        tensors = load(data)
        header = from_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        description = from_json(header["__metadata__"][_KEY])
    except SafetensorError as error:
        raise StateFileError(f"This memory is truncated or damaged ({error}).") from None
    except (KeyError, ValueError):
        raise StateFileError("This is not a memory that deltamem saved: its description is missing.") from None
    if not isinstance(description, dict):
        raise StateFileError("This is not a memory that deltamem saved.")
    try:
        FORMAT.check(description)
    except ValueError as error:
        raise StateFileError(f"This memory {error}") from None
    recorded = description.pop("sha256", None)
    if recorded != _checksum(description, tensors):
        raise StateFileError("This memory was changed or damaged after it was saved: its checksum is wrong.")
    try:
        FORMAT.upgrade(description, tensors)
        return _from_tensors(tensors), _info(description)
    except KeyError as missing:
        raise StateFileError(f"This memory is malformed: it lacks {missing}.") from None
    except (TypeError, ValueError, IndexError) as error:
        raise StateFileError(f"This memory is malformed: {error}") from None


def _to_tensors(state: MemoryState) -> dict[str, Tensor]:
    """The tensors of the file, all layers in one: a name for each would weigh as much as a small state."""
    tensors = {"state": _stacked(state.states), "tokens": state.tokens}
    if state.before is not None:
        tensors["before"] = _stacked(state.before)
    if state.open is not None:
        tensors |= {
            "open.sum": _stacked(state.open.sums),
            "open.count": state.open.count,
            "open.segment": state.open.segment,
        }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _stacked(layers: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([layer.cpu() for layer in layers])


def _from_tensors(tensors: dict[str, Tensor]) -> MemoryState:
    rest = dict(tensors)
    opened = None
    if "open.count" in rest:
        opened = OpenSegment(tuple(rest.pop("open.sum")), rest.pop("open.count"), rest.pop("open.segment"))
    before = tuple(rest.pop("before")) if "before" in rest else None
    state = MemoryState(tuple(rest.pop("state")), rest.pop("tokens"), opened, before)
    if rest:
        raise ValueError(f"it has unknown tensors: {', '.join(sorted(rest))}.")
    return state


def _info(description: dict[str, Any]) -> StateInfo:
    fingerprint, backbone, tokens = (description[name] for name in ("fingerprint", "backbone", "tokens"))
    if not is_text(fingerprint) or not (backbone is None or is_text(backbone)):
        raise ValueError(f"its fingerprint and backbone must be text, not {fingerprint!r} and {backbone!r}.")
    if not isinstance(tokens, list) or not all(type(count) is int for count in tokens):
        raise ValueError(f"its tokens must be a list of numbers, not {tokens!r}.")
    return StateInfo(fingerprint, backbone, tuple(tokens))


def _checksum(description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, unpack: Callable[[bytes], Unpacked]) -> Unpacked:
    """What a file holds; errors name the file."""
    try:
        return unpack(path.read_bytes())
    except OSError as error:
        raise StateFileError(f"Cannot read the memory {path}: {error.strerror}.") from None
    except StateFileError as error:
        raise StateFileError(f"{path}: {error}") from None
