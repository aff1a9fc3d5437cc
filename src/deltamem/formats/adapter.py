"""An adapter as files: ``deltamem_adapter.json``, ``adapter.safetensors`` and a model card.

Files are mapped to tensors and back; no model is seen here.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from deltamem.config import HEADS, DeltaMemConfig, Head
from deltamem.files import from_json, is_text, write_atomically, write_json
from deltamem.formats.versions import Format
from deltamem.memory import DeltaMemory
from deltamem.version import __version__
from deltamem.wording import some

CONFIG_FILE = "deltamem_adapter.json"
TENSOR_FILE = "adapter.safetensors"
CARD_FILE = "README.md"
OLD_CONFIG_FILE = "adapter_config.json"
"""Of version 1, and of PEFT: transformers takes a folder with it for one of PEFT's adapters."""

_MARKER = "<!-- Written by deltamem. Remove this line and it will leave your edits alone. -->"

_CITATION = """@misc{lei2026deltamem,
  author        = {Lei and others},
  title         = {$\\delta$-mem},
  year          = {2026},
  eprint        = {2605.12357},
  archivePrefix = {arXiv}
}"""


def _without_sample(description: dict[str, Any], _: dict[str, Tensor]) -> None:
    description["backbone_sample"] = None


FORMAT = Format("deltamem-adapter", (_without_sample,))


class AdapterFileError(ValueError):
    """An adapter file that is missing, damaged, or made for something else."""


@dataclass(frozen=True)
class BackboneShape:
    """The shape of the backbone that an adapter was made for.

    Attributes:
        hidden_size: D.
        layers: how many attention layers it has; ``None`` if the adapter's file does not say.
        outputs: the width of each projection's output; one a layer where the layers differ.
    """

    hidden_size: int
    layers: int | None
    outputs: dict[Head, int | tuple[int, ...]]

    @classmethod
    def of(cls, sizes: list[dict[Head, int]]) -> "BackboneShape":
        """The shape of a backbone whose attention layers have these projection widths."""
        outputs: dict[Head, int | tuple[int, ...]] = {}
        for head in HEADS:
            widths = tuple(layer[head] for layer in sizes)
            outputs[head] = widths[0] if len(set(widths)) == 1 else widths
        return cls(sizes[0]["o"], len(sizes), outputs)

    def at(self, layer: int) -> dict[Head, int]:
        """The widths of one layer's projections."""
        return {h: width if isinstance(width, int) else width[layer] for h, width in self.outputs.items()}

    def differences(self, other: "BackboneShape") -> list[str]:
        """What both know and do not agree on, for a message."""
        pairs: list[tuple[str, Any, Any]] = [
            ("hidden size", self.hidden_size, other.hidden_size),
            ("layers", self.layers, other.layers),
            *((f"{h} width", self.outputs.get(h), other.outputs.get(h)) for h in HEADS),
        ]
        return [f"{name} {a}, not {b}" for name, a, b in pairs if a is not None and b is not None and a != b]


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """A whole adapter, off any model.

    Attributes:
        config: its configuration.
        tensors: float32, named ``layers.{i}.{part}`` with the parts of :meth:`DeltaMemory.named_parts`.
        backbone: the shape it was made for.
        base_model: Hub id of the backbone, if known.
        base_revision: the commit of it, if known.
        backbone_sample: some of the backbone's weights, if known; see :func:`deltamem.attach.families.sample_weights`.

    Raises:
        AdapterFileError: tensors are missing, left over, of the wrong shape or not of floating point.
    """

    config: DeltaMemConfig
    tensors: dict[str, Tensor]
    backbone: BackboneShape
    base_model: str | None = None
    base_revision: str | None = None
    backbone_sample: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        wanted = self.wanted_shapes()
        _check_tensors(self.tensors, wanted)
        plain = {name: self.tensors[name].detach().float().cpu().contiguous() for name in wanted}
        object.__setattr__(self, "tensors", plain)

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The attention layers that the adapter is on."""
        if self.backbone.layers is None:
            if isinstance(self.config.layers, str):
                raise AdapterFileError(f"layers={self.config.layers!r} needs the backbone's number of layers.")
            return self.config.layers
        try:
            return self.config.select_layers(self.backbone.layers)
        except ValueError as error:
            raise AdapterFileError(str(error)) from None

    @property
    def untrained(self) -> bool:
        """Whether it has corrections but was never trained: the gates' weights, which start at zero, still are."""
        gates = [tensor for name, tensor in self.tensors.items() if name.endswith(("beta_proj", "lambda_proj"))]
        heads = [tensor for name, tensor in self.tensors.items() if ".delta_" in name]
        return bool(gates) and not any(bool(t.any()) for t in gates) and any(bool(t.any()) for t in heads)

    @property
    def parameters(self) -> int:
        """How many numbers the adapter has."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def wanted_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that this configuration has on this backbone."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layer_numbers:
            outputs = self.backbone.at(layer)
            if missing := set(self.config.heads) - set(outputs):
                raise AdapterFileError(f"The file does not say how wide the heads {sorted(missing)} are.")
            with torch.device("meta"):
                memory = DeltaMemory(self.config, self.backbone.hidden_size, outputs)
            shapes |= {f"layers.{layer}.{part}": tuple(t.shape) for part, t in memory.named_parts().items()}
        return shapes

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the configuration and all tensors: what a saved memory belongs to."""
        digest = hashlib.sha256(_canonical_config(self.config).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"\n{name} {list(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().data)
        return digest.hexdigest()


def write_adapter(adapter: AdapterFile, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes both files of an adapter, replacing those of another.

    Args:
        adapter: the adapter.
        folder: where to; made if need be.
        dtype: of the numbers in the file, to which they are rounded: ``torch.bfloat16`` halves it. They are read back
            as float32. What is rounded is another adapter, with a fingerprint of its own.

    Raises:
        AdapterFileError: the folder belongs to a model.
        OSError: the folder cannot be written.
    """
    if (folder / "config.json").exists():
        raise AdapterFileError(
            f"{folder} is the folder of a model (it has a config.json); give the adapter its own folder."
        )
    stored = {name: tensor.to(dtype) for name, tensor in adapter.tensors.items()}
    adapter = dataclasses.replace(adapter, tensors={name: tensor.float() for name, tensor in stored.items()})
    description = {
        **FORMAT.label,
        "deltamem_version": __version__,
        "base_model": adapter.base_model,
        "base_revision": adapter.base_revision,
        "backbone": dataclasses.asdict(adapter.backbone),
        "backbone_sample": adapter.backbone_sample,
        "config": dataclasses.asdict(adapter.config),
        "fingerprint": adapter.fingerprint,
    }
    write_atomically(folder / TENSOR_FILE, save(stored))
    write_json(folder / CONFIG_FILE, description)
    if _is_ours(folder / OLD_CONFIG_FILE):
        (folder / OLD_CONFIG_FILE).unlink()


def config_file(folder: Path) -> Path | None:
    """The file that describes the adapter of a folder, of this version or an older one, if there is one."""
    if (folder / CONFIG_FILE).exists():
        return folder / CONFIG_FILE
    return folder / OLD_CONFIG_FILE if _is_ours(folder / OLD_CONFIG_FILE) else None


def _is_ours(path: Path) -> bool:
    """Whether an ``adapter_config.json`` is not PEFT's."""
    try:
        return path.exists() and "peft_type" not in read_json(path)
    except AdapterFileError:
        return True  # what is wrong with it is said when it is read


def read_adapter(folder: Path) -> AdapterFile:
    """Reads an adapter folder.

    Raises:
        AdapterFileError: a file is missing, damaged, of a newer format, or the two do not belong together.
    """
    path = config_file(folder) or folder / CONFIG_FILE
    found = read_json(path)
    try:
        FORMAT.check(found)
    except ValueError as error:
        raise AdapterFileError(f"{path} {error}") from None
    tensors = read_tensors(folder / TENSOR_FILE)
    try:
        FORMAT.upgrade(found, tensors)
        config = DeltaMemConfig.from_dict(found["config"])
        backbone = _parse_backbone(found["backbone"])
        base = _text_or_none(found["base_model"]), _text_or_none(found["base_revision"])
        sample = _parse_sample(found["backbone_sample"])
        recorded = found["fingerprint"]
    except KeyError as missing:
        raise AdapterFileError(f"{path} lacks the field {missing}.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise AdapterFileError(f"{path}: {error}") from None
    adapter = build_adapter(folder, config, tensors, backbone, *base, sample)
    if recorded != adapter.fingerprint:
        raise AdapterFileError(
            f"{folder}: {TENSOR_FILE} is not the one that {path.name} was written with, or one of them was "
            "changed since; save the adapter again."
        )
    return adapter


def build_adapter(folder: Path, *parts: Any) -> AdapterFile:
    """An :class:`AdapterFile` whose errors name the folder it was read from.

    Raises:
        AdapterFileError: the parts do not fit together.
    """
    try:
        return AdapterFile(*parts)
    except ValueError as error:
        raise AdapterFileError(f"{folder}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        AdapterFileError: there is none.
    """
    try:
        found = from_json(path.read_bytes())
    except OSError as error:
        raise AdapterFileError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise AdapterFileError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise AdapterFileError(f"{path} must hold a JSON object.")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        AdapterFileError: it is missing or damaged.
    """
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise AdapterFileError(f"Cannot read {path}: {error.strerror}.") from None
    except SafetensorError as error:
        raise AdapterFileError(f"{path} is truncated or damaged ({error}); fetch or save it again.") from None


def _parse_backbone(found: dict[str, Any]) -> BackboneShape:
    outputs: dict[Head, int | tuple[int, ...]] = {}
    layers = found["layers"]
    if layers is not None:
        _positive("layers", layers, most=10_000)
    for head, widths in found["outputs"].items():
        if head not in HEADS:
            raise ValueError(f"backbone.outputs has an unknown head {head!r}.")
        if isinstance(widths, list) and len(widths) == layers:
            outputs[head] = tuple(_positive(f"outputs.{head}", width) for width in widths)
        else:
            outputs[head] = _positive(f"outputs.{head}", widths)
    return BackboneShape(_positive("hidden_size", found["hidden_size"]), layers, outputs)


def _parse_sample(found: Any) -> tuple[float, ...] | None:
    if found is not None and not (isinstance(found, list) and all(type(value) is float for value in found)):
        raise ValueError("backbone_sample must be a list of numbers or null.")
    return None if found is None else tuple(found)


def _positive(name: str, value: Any, most: int = 2**24) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"backbone.{name} must be an integer from 1 to {most}, not {value!r}.")
    return value


def _text_or_none(value: Any) -> str | None:
    if value is not None and not is_text(value):
        raise ValueError(f"base_model and base_revision must be text or null, not {value!r}.")
    return value


def _check_tensors(tensors: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    for kind, names in (("lacks", wanted.keys() - tensors.keys()), ("does not expect", tensors.keys() - wanted.keys())):
        if names:
            raise AdapterFileError(f"The adapter {kind} the tensors {some(names)}.")
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise AdapterFileError(f"Tensor {name} has shape {list(tensor.shape)}; wanted {list(shape)}.")
        if not tensor.is_floating_point():
            raise AdapterFileError(f"Tensor {name} is {tensor.dtype}; wanted floating point.")


def _canonical_config(config: DeltaMemConfig) -> str:
    """The fields that are not at their default, so that a field added later changes no fingerprint."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            changed[field.name] = float(value) if isinstance(field.default, float) else value
    return json.dumps(changed, sort_keys=True)


def model_card(
    adapter: AdapterFile, *, source: str = "path/or/hub-id", license: str | None = None, training: str = ""
) -> str:
    """A model card in Markdown with the Hub's metadata.

    Args:
        adapter: what the card is for.
        source: what a reader passes to ``load_adapter``.
        license: the Hub's identifier of the weights' licence, for example ``apache-2.0``.
        training: further sections in Markdown on how it was trained and what it is worth.
    """
    base = adapter.base_model
    head = ["---", "library_name: deltamem", "tags: [deltamem, memory, adapter]"]
    if base is not None:
        head.append(f"base_model: {base}")
    if license is not None:
        head.append(f"license: {license}")
    named = f"[{base}](https://huggingface.co/{base})" if base is not None else "a backbone whose id was not recorded"
    if base is not None and adapter.base_revision is not None:
        named += f" at revision `{adapter.base_revision}`"
    rows = "\n".join(f"| `{name}` | `{value}` |" for name, value in dataclasses.asdict(adapter.config).items())
    layers = adapter.backbone.layers if adapter.backbone.layers is not None else "an unknown number of"
    terms = f"These weights are under `{license}`." if license is not None else "Ask their author for their licence."
    return f"""{chr(10).join([*head, "---"])}
{_MARKER}

# A δ-mem adapter

A small associative memory beside a frozen language model: it is written while the model reads, kept when the text
is gone, and carried to the next conversation as a file of a few kilobytes.
Made for {named} (hidden size {adapter.backbone.hidden_size}, {layers} attention layers).
{adapter.parameters:,} parameters.

## Use

```python
import deltamem
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{base or "the/backbone"}")
deltamem.load_adapter(model, "{source}")
```

## Configuration

| field | value |
|---|---|
{rows}
{training}
Fingerprint: `{adapter.fingerprint}`. A saved memory belongs to the adapter with this fingerprint.

## Licence and attribution

{terms} The backbone keeps its own licence. The method is that of arXiv 2605.12357.

```bibtex
{_CITATION}
```
"""


def write_card(card: str, folder: Path) -> None:
    """Saves a card as ``README.md``, unless a person has taken that file over.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / CARD_FILE
    if not path.exists() or _MARKER in path.read_text(encoding="utf-8"):
        write_atomically(path, card.encode())
