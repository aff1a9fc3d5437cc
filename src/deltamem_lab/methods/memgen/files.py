"""MemGen's weaver as a folder: ``memgen.json``, ``memgen.safetensors``, and its LoRA in ``lora`` as PEFT writes one."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deltamem_lab.methods.folders import DescriptionFile, load_weights, save_weights
from deltamem_lab.methods.lora import LoraPlan, load_lora, lora_fingerprint, save_lora
from deltamem_lab.methods.memgen.weaver import Weaver, WeaverPlan, put_weaver

# Since version 2 query latents are normalised and scaled.
_DESCRIPTION = DescriptionFile(
    "a weaver of MemGen", "memgen.json", "deltamem-memgen", 2, ("width", "plan", "fingerprint")
)
_TENSOR_FILE = "memgen.safetensors"
_LORA_FOLDER = "lora"


def is_weaver(folder: str | Path) -> bool:
    """Whether a folder is a weaver that :func:`save_weaver` has written."""
    return (Path(folder) / _DESCRIPTION.name).is_file()


def save_weaver(model: Any, weaver: Weaver, folder: str | Path, base: str = "") -> None:
    """Writes a weaver with its LoRA."""
    folder, plan = Path(folder), weaver.plan
    save_lora(model, folder / _LORA_FOLDER, weaver.name, plan.lora, base)
    save_weights(weaver, folder / _TENSOR_FILE)
    _DESCRIPTION.write(
        folder,
        model,
        base,
        width=weaver.to_weaver.in_features,
        plan=asdict(plan),
        trained="weaver by supervised learning; trigger always on",
        fingerprint=weaver_fingerprint(model, weaver),
    )


def load_weaver(model: Any, folder: str | Path, name: str) -> Weaver:
    """Puts a saved weaver on its backbone.

    Raises:
        ImportError: peft is not installed; the message names the extra.
        ValueError: the folder is no weaver, is damaged, or belongs to another backbone.
    """
    folder = Path(folder)
    description = _DESCRIPTION.read(folder, model)
    try:
        weaver = Weaver(name, description["width"], _plan(description["plan"]))
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder / _DESCRIPTION.name} has no whole plan ({error}); train the weaver again.") from None
    load_lora(model, folder / _LORA_FOLDER, name)
    load_weights(weaver, folder / _TENSOR_FILE)
    put_weaver(model, weaver)
    if model.device.type != "meta" and description["fingerprint"] != weaver_fingerprint(model, weaver):
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
