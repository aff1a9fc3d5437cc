"""Loading a model by name, from a folder, a GGUF file or the Hub, with its adapter and tokenizer."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from deltamem.attach.families import HUB_ID
from deltamem.formats.adapter import AdapterFileError
from deltamem.formats.hub import load_adapter
from deltamem.models.catalog import MODELS, KnownModel
from deltamem.models.pull import require_gguf

MAIN_ADAPTER = "multi"


class Source(NamedTuple):
    """Where transformers finds a model.

    Attributes:
        place: a folder or a Hub id.
        options: for ``from_pretrained``.
        known: the model, if it was called by a name of ours.
    """

    place: str
    options: dict[str, Any]
    known: KnownModel | None = None


def find_source(model: str | Path) -> Source:
    """Where a model lies.

    Args:
        model: a name of :data:`~deltamem.models.catalog.MODELS`, a folder, a GGUF file or a Hub id. A folder that is
            called like a name of ours is given as ``./NAME``.

    Raises:
        FileNotFoundError: it is not there; the message says what to do.
        ImportError: it is a GGUF file, and a package that reads it is missing.
    """
    known = MODELS.get(str(model))
    if known is not None:
        if not known.here:
            assert known.pullable is not None
            size = known.pullable.megabytes
            raise FileNotFoundError(
                f"{known.name} is not on this machine. Fetch it ({size} MB): deltamem pull {known.name}"
            )
        return Source(str(known.folder), {}, known)
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"There is no GGUF file {path}.")
        require_gguf()
        return Source(str(path.parent), {"gguf_file": path.name})
    if path.is_dir():
        if not (path / "config.json").exists() and (ggufs := sorted(path.glob("*.gguf"))):
            raise FileNotFoundError(f"{path} holds GGUF files and no config.json; name the file: --model {ggufs[0]}")
        return Source(str(path), {})
    if not HUB_ID.fullmatch(str(model)):
        raise FileNotFoundError(
            f"There is no model folder {model}. Give a folder, a Hub id (owner/name), or one of {', '.join(MODELS)}."
        )
    return Source(str(model), {})


def load_config(model: str | Path, *, revision: str | None = None) -> Any:
    """A model's ``transformers`` configuration."""
    from transformers import AutoConfig

    source = find_source(model)
    return AutoConfig.from_pretrained(source.place, revision=revision, **source.options)


def load_tokenizer(model: str | Path, *, revision: str | None = None) -> Any:
    """A model's tokenizer."""
    from transformers import AutoTokenizer

    source = find_source(model)
    return AutoTokenizer.from_pretrained(source.place, revision=revision, **source.options)


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
    options = source.options if attention is None else {**source.options, "attn_implementation": attention}
    if device_map is not None:
        options = {**options, "device_map": device_map}
    loaded: Any = AutoModelForCausalLM.from_pretrained(source.place, revision=revision, dtype=chosen, **options)
    return loaded.eval() if device_map is not None else loaded.to(device).eval()


def load_model(
    model: str | Path = "smollm2",
    adapter: str | Path | None = MAIN_ADAPTER,
    *,
    device: str = "cpu",
    dtype: str = "auto",
) -> tuple[Any, Any]:
    """A model with its adapter, and its tokenizer.

    Args:
        model: a name (``smollm2``, ``gemma3-270m``, ``embedded``), a folder, a GGUF file or a Hub id. The first two are
            fetched by ``deltamem pull``.
        adapter: one that comes with the package for a model with a name, such as ``first``; or a folder or Hub id;
            ``None`` leaves the model bare.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: of the weights, such as ``bfloat16``; ``auto`` chooses. A memory computes in float32 all the same.

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

    Raises:
        AdapterFileError: it is not there; the message names those that are.
    """
    known = MODELS.get(str(model))
    shipped = known.shipped() if known else {}
    if str(adapter) in shipped:
        return shipped[str(adapter)]
    if Path(adapter).exists() or "/" in str(adapter):
        return adapter
    if known is None:
        raise AdapterFileError(f"There is no adapter folder {adapter}; name a folder or a Hub id (owner/name).")
    there = f"there are: {', '.join(shipped)}" if shipped else "there is none yet"
    raise AdapterFileError(f"The package has no adapter {str(adapter)!r} for {known.name}; {there}. A folder does too.")


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
