"""LoRAs (Hu et al., 2021) on a backbone, by PEFT: off unless a method asks for one, so that others see it bare."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deltamem.extensions import from_extra
from deltamem.files import write_atomically
from deltamem_lab.methods.bare import bare_path, linears
from deltamem_lab.methods.training import TokenRows, descend, next_token_loss

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "dense")


@dataclass(frozen=True)
class LoraPlan:
    """How a LoRA is trained. Rank and projections are those whose size the paper tells: 5.90 M on Qwen3-4B.

    Attributes:
        alpha: the update is scaled by alpha/rank.
        projections: how the paths of the linear layers end that it is on.
        rate: the highest learning rate of AdamW, reached after a tenth of the updates; a cosine leads down from it.
        batch: rows an update.
    """

    rank: int = 8
    alpha: int = 16
    projections: tuple[str, ...] = _PROJECTIONS
    rate: float = 2e-4
    steps: int = 70
    batch: int = 8
    seed: int = 0


def is_lora(folder: str | Path) -> bool:
    """Whether a folder is a LoRA that PEFT has saved."""
    return (Path(folder) / TENSOR_FILE).is_file() and (Path(folder) / CONFIG_FILE).is_file()


def loras(model: nn.Module) -> tuple[str, ...]:
    """The names of the LoRAs on a model, in the order they came."""
    return tuple(dict.fromkeys(name for layer in _layers(model) for name in layer.lora_A))


def add_lora(model: nn.Module, name: str, plan: LoraPlan) -> None:
    """Puts a fresh LoRA on the plan's projections; it changes nothing until it is trained.

    Raises:
        ImportError: peft is not installed; the message names the extra.
        ValueError: there is one of that name, or no projection that a LoRA is put on.
    """
    from_config = _peft().LoraConfig(r=plan.rank, lora_alpha=plan.alpha, lora_dropout=0.0, bias="none")
    _inject(model, name, from_config, [path for path in linears(model) if path.endswith(plan.projections)])
    reset_lora(model, name, plan.seed)


def load_lora(model: nn.Module, folder: str | Path, name: str) -> None:
    """Puts a LoRA on a model that PEFT, or :func:`save_lora`, has saved.

    Raises:
        ImportError: peft is not installed; the message names the extra.
        ValueError: the folder is not a LoRA, or one for another backbone.
    """
    from safetensors.torch import load_file

    if not is_lora(folder):
        raise ValueError(f"{folder} is not a LoRA of PEFT; it needs {CONFIG_FILE} and {TENSOR_FILE}.")
    config = _peft().PeftConfig.from_pretrained(str(folder))
    special = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication")
    used = [option for option in special if getattr(config, option, None)]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA" or used:
        raise ValueError(f"{folder} is not a plain LoRA ({', '.join(used) or config.peft_type}), which is all we read.")
    tensors = {key.removeprefix(_PREFIX): value for key, value in load_file(Path(folder) / TENSOR_FILE).items()}
    wanted = dict.fromkeys(key.rpartition(".lora_")[0] for key in tensors)
    known = linears(model)
    if missing := [path for path in wanted if path not in known]:
        raise ValueError(f"{folder} belongs to another backbone: there is no {missing[0] or 'such module'} here.")
    _inject(model, name, config, list(wanted))
    with torch.no_grad():
        for path, half, weight in _weights(model, name):
            value = tensors.get(f"{path}.lora_{half}.weight")
            if value is None or value.shape != weight.shape:
                raise ValueError(f"{folder} belongs to another backbone: {path} has other sizes here.")
            weight.copy_(value)


def save_lora(model: nn.Module, folder: str | Path, name: str, plan: LoraPlan, base: str = "") -> None:
    """Writes a LoRA as PEFT would for the bare backbone."""
    from safetensors.torch import save

    found = list(_weights(model, name))
    tensors = {f"{_PREFIX}{path}.lora_{half}.weight": weight.detach().cpu() for path, half, weight in found}
    targets = sorted({path.rpartition(".")[2] for path, _, _ in found})
    config = _peft().LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        base_model_name_or_path=base or None,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    write_atomically(Path(folder) / TENSOR_FILE, save(tensors, {"format": "pt"}))
    config.save_pretrained(str(folder))


def reset_lora(model: nn.Module, name: str, seed: int) -> None:
    """Gives a LoRA fresh weights: it changes nothing until it is trained again."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _, half, weight in _weights(model, name):
            if half == "A":
                drawn = torch.empty(weight.shape)
                nn.init.kaiming_uniform_(drawn, a=5**0.5)
                weight.copy_(drawn)
            else:
                weight.zero_()


def fit_lora(model: Any, name: str, updates: Iterable[Sequence[TokenRows]], plan: LoraPlan) -> list[float]:
    """Trains a LoRA by the weighted loss of the next token, as :func:`descend` does; all else stays as it is."""
    with using_lora(model, name):
        return descend(
            lora_weights(model, name),
            updates,
            lambda rows: next_token_loss(model, rows),
            rate=plan.rate,
            steps=plan.steps,
            weight=lambda rows: rows.total,
        )


@contextmanager
def using_lora(model: nn.Module, name: str) -> Iterator[None]:
    """Within the block this LoRA is on."""
    layers = _layers(model)
    for layer in layers:
        layer.set_adapter(name)
        layer._disable_adapters = False
    try:
        yield
    finally:
        _switch_off(model)


def lora_weights(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The weights of a LoRA, on whichever projections it is."""
    return [weight for _, _, weight in _weights(model, name)]


def lora_bytes(model: nn.Module, name: str) -> int:
    """The size of a LoRA's weights."""
    return sum(weight.nbytes for _, _, weight in _weights(model, name))


def lora_fingerprint(model: nn.Module, name: str) -> str:
    """SHA-256 of a LoRA's weights."""
    found = hashlib.sha256()
    for path, half, weight in _weights(model, name):
        found.update(f"{path}.{half}".encode())
        found.update(weight.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()


def _inject(model: nn.Module, name: str, config: Any, paths: list[str]) -> None:
    if name in loras(model):
        raise ValueError(f"There is a LoRA named {name!r} already; choose another name.")
    if not paths:
        raise ValueError("This backbone has no projection for a LoRA.")
    known = linears(model)
    config.target_modules = {known[path] for path in paths}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with warnings.catch_warnings():
        # That there are several, and that PEFT's own switches are not used, is meant.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        _peft().inject_adapter_in_model(config, model, name)
    for parameter in trained:
        parameter.requires_grad_(True)
    for _, _, weight in _weights(model, name):
        weight.data = weight.data.float()
        weight.requires_grad_(False)
    _switch_off(model)


def _switch_off(model: nn.Module) -> None:
    for layer in _layers(model):
        layer._disable_adapters = True


def _weights(model: nn.Module, name: str) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Each weight of a LoRA, with the path of its projection in the bare backbone, and A or B."""
    for path, module in model.named_modules():
        if hasattr(module, "lora_A") and name in module.lora_A:
            yield bare_path(path), "A", module.lora_A[name].weight
            yield bare_path(path), "B", module.lora_B[name].weight


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def _peft() -> Any:
    with from_extra("lora", "A LoRA needs peft"):
        import peft
    return peft
