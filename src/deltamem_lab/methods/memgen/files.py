"""MemGen's weaver as a folder: ``memgen.json``, ``memgen.safetensors``, and its LoRA in ``lora`` as PEFT writes one."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deltamem.files import write_atomically, write_json
from deltamem.version import __version__
from deltamem_lab.methods.bare import backbone_fingerprint
from deltamem_lab.methods.lora import LoraPlan, load_lora, lora_fingerprint, save_lora
from deltamem_lab.methods.memgen.weaver import Weaver, WeaverPlan, put_weaver

CONFIG_FILE = "memgen.json"
_TENSOR_FILE = "memgen.safetensors"
_LORA_FOLDER = "lora"
_FORMAT = "deltamem-memgen"
# Since 2 query latents are normalised and scaled.
_VERSION = 2


def is_weaver(folder: str | Path) -> bool:
    """Whether a folder is a weaver that :func:`save_weaver` has written."""
    return (Path(folder) / CONFIG_FILE).is_file()


def save_weaver(model: Any, weaver: Weaver, folder: str | Path, base: str = "") -> None:
    """Writes a weaver; its description comes last, so that half a folder is none."""
    from safetensors.torch import save

    folder, plan = Path(folder), weaver.plan
    description = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "deltamem_version": __version__,
        "base_model": base or None,
        "backbone": backbone_fingerprint(model),
        "width": weaver.to_weaver.in_features,
        "plan": asdict(plan),
        "trained": "weaver by supervised learning; trigger always on",
        "fingerprint": weaver_fingerprint(model, weaver),
    }
    save_lora(model, folder / _LORA_FOLDER, weaver.name, plan.lora, base)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weaver.state_dict().items()}
    write_atomically(folder / _TENSOR_FILE, save(tensors, {"format": "pt"}))
    write_json(folder / CONFIG_FILE, description)


def load_weaver(model: Any, folder: str | Path, name: str) -> Weaver:
    """Puts a saved weaver on its backbone; on one without weights, so that a run can be planned, it is not compared.

    Raises:
        ImportError: peft is not installed; the message names the extra.
        ValueError: the folder is no weaver, is damaged, or belongs to another backbone.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    description = _read_description(folder)
    without_weights = model.device.type == "meta"
    if not without_weights and description["backbone"] != backbone_fingerprint(model):
        made_for = description["base_model"] or f"a backbone of width {description['width']}"
        raise ValueError(f"{folder} belongs to another backbone: it was trained on {made_for}, with other weights.")
    try:
        weaver = Weaver(name, description["width"], _plan(description["plan"]))
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} has no whole plan ({error}); train the weaver again.") from None
    load_lora(model, folder / _LORA_FOLDER, name)
    try:
        weaver.load_state_dict(load_file(folder / _TENSOR_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / _TENSOR_FILE} is damaged or missing: {error}") from None
    put_weaver(model, weaver)
    if not without_weights and description["fingerprint"] != weaver_fingerprint(model, weaver):
        raise ValueError(f"The files in {folder} do not belong together, or one is damaged; train the weaver again.")
    return weaver


def weaver_fingerprint(model: nn.Module, weaver: Weaver) -> str:
    """SHA-256 of a weaver's weights."""
    found = hashlib.sha256(lora_fingerprint(model, weaver.name).encode())
    for name, tensor in sorted(weaver.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.to("cpu", torch.float32).numpy().tobytes())
    return found.hexdigest()


def _plan(fields: dict[str, Any]) -> WeaverPlan:
    lora = fields["lora"]
    return WeaverPlan(**{**fields, "lora": LoraPlan(**{**lora, "projections": tuple(lora["projections"])})})


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a weaver of MemGen: it has no {CONFIG_FILE}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict) or (found.get("format"), found.get("format_version")) != (_FORMAT, _VERSION):
        raise ValueError(f"{path} is not a weaver of MemGen in format version {_VERSION}; train it again.")
    if missing := {"backbone", "base_model", "width", "plan", "fingerprint"} - set(found):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}.")
    return found
