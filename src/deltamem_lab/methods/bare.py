"""A backbone as it is without what has been put on it: the paths of its linear layers, and what it is known by."""

import hashlib

import torch
from torch import nn

_SAMPLE = 256


def linears(model: nn.Module) -> dict[str, str]:
    """The path of every linear layer, or of the LoRAs on it, by its path in the bare backbone."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        if not _added(path) and (isinstance(module, nn.Linear) or hasattr(module, "lora_A")):
            found.setdefault(bare_path(path), path)
    return found


def bare_path(path: str) -> str:
    """A module's path as it is on a backbone that carries neither memories nor LoRAs."""
    return path.replace(".self_attn.attention.", ".self_attn.").replace(".base_layer", "")


def backbone_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, shapes and first numbers of the weights of the bare backbone, whatever it carries.

    A few numbers of each tell backbones apart without reading gigabytes; as bfloat16, so that the precision in which
    it was loaded does not matter.
    """
    digest = hashlib.sha256()
    bare = {bare_path(path): weight for path, weight in model.named_parameters() if not _added(path)}
    for path, weight in sorted(bare.items()):
        first = weight.detach().flatten()[:_SAMPLE].to("cpu", torch.bfloat16)
        digest.update(f"{path} {list(weight.shape)}\n".encode())
        digest.update(first.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _added(path: str) -> bool:
    return "lora_" in path or ".adapters." in path
