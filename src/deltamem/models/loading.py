"""Loading a model by name, from a folder, a GGUF file or the Hub, with its adapter and tokenizer."""

from pathlib import Path
from typing import Any

import torch

from deltamem.formats.adapter import AdapterFileError
from deltamem.formats.hub import load_adapter
from deltamem.models.catalog import MODELS, Source, find_source, lacks_adapter


def quiet_transformers() -> None:
    """Has transformers tell errors alone and draw no bars, for commands that say themselves what they do."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _from_pretrained(kind: Any, source: Source, revision: str | None, **options: Any) -> Any:
    """Loads by a class of transformers; says what the Hub does not give: a mistyped folder looks like a Hub id."""
    try:
        return kind.from_pretrained(source.place, revision=revision, **source.options, **options)
    except OSError as error:
        if Path(source.place).is_dir():
            raise
        raise OSError(f"There is no folder {source.place} here, and it does not come from the Hub: {error}") from None


def load_config(model: str | Path, *, revision: str | None = None) -> Any:
    """A model's ``transformers`` configuration."""
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, find_source(model), revision)


def load_tokenizer(model: str | Path, *, revision: str | None = None) -> Any:
    """A model's tokenizer."""
    from transformers import AutoTokenizer

    return _from_pretrained(AutoTokenizer, find_source(model), revision)


def load_weights(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | torch.device = "cpu",
    attention: str | None = None,
    device_map: str | None = None,
) -> Any:
    """A bare model, in evaluation mode.

    Args:
        model: as :func:`find_source` takes it.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights, such as ``bfloat16``. ``auto``: that of the files; for a model with a name of ours and
            for a GGUF file float32 on a CPU and bfloat16 on a GPU.
        device: where it runs.
        attention: the attention kernel, as transformers names it; its choice by default.
        device_map: where its parts run, as transformers has it, instead of all on ``device``.

    Raises:
        OSError: it is not there.
        ImportError: it is a GGUF file, and a package that reads it is missing.
    """
    from transformers import AutoModelForCausalLM

    source = find_source(model)
    device = torch.device(device)
    chosen: Any = dtype if dtype == "auto" else getattr(torch, dtype)
    if dtype == "auto" and (source.known or source.options):
        chosen = torch.float32 if device.type == "cpu" else torch.bfloat16
    given = {"dtype": chosen, "attn_implementation": attention, "device_map": device_map}
    options = {name: value for name, value in given.items() if value is not None}
    loaded = _from_pretrained(AutoModelForCausalLM, source, revision, **options)
    return (loaded if device_map is not None else loaded.to(device)).eval()


def load_model(
    model: str | Path = "smollm2",
    adapter: str | Path | None = "",
    *,
    device: str = "cpu",
    dtype: str = "auto",
) -> tuple[Any, Any]:
    """A model with its adapter, and its tokenizer.

    Args:
        model: a name (``smollm2``, ``gemma3-270m``, ``embedded``), a folder, a GGUF file or a Hub id. ``deltamem pull``
            fetches the first two.
        adapter: one that comes with the package for a model with a name, such as ``multi``; or a folder or Hub id;
            empty for the main one in the package; ``None`` leaves the model bare.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: of the weights, such as ``bfloat16``; ``auto`` chooses. A memory always computes in float32.

    Raises:
        OSError: the model is not there; the message names the command that fetches it.
        AdapterFileError: there is no such adapter, or it belongs to another model.
        ValueError: there is no such device.
    """
    find_source(model)  # a model that is not here is the first thing to say
    place = None if adapter is None else find_adapter(model, adapter)
    loaded = load_weights(model, dtype=dtype, device=choose_device(device))
    tokenizer = load_tokenizer(model)
    if place is not None:
        load_adapter(loaded, place)
    return loaded, tokenizer


def find_adapter(model: str | Path, adapter: str | Path) -> str | Path:
    """The folder or Hub id of an adapter for a model, which may be called by its name in the package.

    Without a name it is the package's main one for that model.

    Raises:
        AdapterFileError: it is not there; the message names those that are.
    """
    known = MODELS.get(str(model))
    if not adapter:
        if known is None:
            raise AdapterFileError(f"{model} needs an adapter. Give a folder or a Hub id (owner/name).")
        adapter = known.main_adapter
    shipped = known.shipped() if known else {}
    if str(adapter) in shipped:
        return shipped[str(adapter)]
    if lacking := lacks_adapter(model, adapter):
        raise AdapterFileError(lacking)
    return adapter


def choose_device(name: str) -> torch.device:
    """The device of that name; of ``auto`` a GPU if there is one.

    Raises:
        ValueError: there is no such device, or this PyTorch sees none.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(
            f"A device is auto, cpu, cuda, cuda:NUMBER or mps, not {name!r}. auto takes a GPU if there is one."
        )
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seen = {"cpu": True, "cuda": int(number or 0) < torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if not seen[kind]:
        raise ValueError(f"PyTorch sees no device {name} here; take auto, or install a build of PyTorch that does.")
    return torch.device(name)
