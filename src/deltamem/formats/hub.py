"""Adapters between models, folders and the Hub."""

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from deltamem.attach import Attachment, attach, attached
from deltamem.attach.families import find_attention, find_origin, projection_sizes, same_weights
from deltamem.files import HUB_ID
from deltamem.formats.adapter import (
    CARD_FILE,
    CONFIG_FILE,
    OLD_CONFIG_FILE,
    TENSOR_FILE,
    AdapterFile,
    AdapterFileError,
    BackboneShape,
    config_file,
    model_card,
    read_adapter,
    write_adapter,
    write_card,
)
from deltamem.formats.release import RELEASE_CONFIG_FILE, RELEASE_TENSOR_FILE, read_release

_FILES = [CONFIG_FILE, OLD_CONFIG_FILE, TENSOR_FILE, RELEASE_CONFIG_FILE, RELEASE_TENSOR_FILE]


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    name: str | None = None,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Path:
    """Saves an adapter as ``deltamem_adapter.json``, ``adapter.safetensors`` and a model card.

    Args:
        model: an attached model.
        folder: created if needed; an adapter already there is replaced.
        name: which adapter; the active one by default.
        base_model: Hub id of the backbone; by default what the model was loaded from, if that was the Hub.
        base_revision: the commit of it.

    Returns:
        the folder.

    Raises:
        AdapterFileError: the folder belongs to a model.
        ValueError: the model carries no such adapter.
        OSError: the folder cannot be written.
    """
    adapter = adapter_file(model, name, base_model=base_model, base_revision=base_revision)
    folder = Path(folder)
    write_adapter(adapter, folder)
    write_card(model_card(adapter), folder)
    return folder


def load_adapter(
    model: nn.Module, source: str | Path, name: str = "default", *, revision: str | None = None
) -> Attachment:
    """Puts a saved adapter on a model and makes it the active one.

    Args:
        model: the backbone, bare or carrying other adapters.
        source: a folder in our format or in the published release's, or the Hub id of one.
        name: the adapter's name on this model. It replaces an adapter of that name that has not changed since it was
            added.
        revision: branch, tag or commit on the Hub.

    Raises:
        AdapterFileError: the adapter is not there, damaged, or made for a backbone of another shape. The
            model is left as it was.
        ValueError: the model's attention is unknown, or the name is taken.
    """
    return add_adapter(model, read_adapter_from(source, revision=revision), name)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    name: str | None = None,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Uploads an adapter with its model card to the Hugging Face Hub, and returns the commit's address.

    Args:
        model: an attached model.
        repo_id: ``owner/name``; created if needed.
        name: which adapter; the active one by default.
        base_model: as in :func:`save_adapter`.
        base_revision: as in :func:`save_adapter`.
        license: the Hub's identifier of the weights' licence.
        private: whether a new repository is private; the owner's default if ``None``.
        token: a Hub token; by default the one you logged in with.

    Raises:
        ValueError: the model carries no such adapter.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    adapter = adapter_file(model, name, base_model=base_model, base_revision=base_revision)
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(adapter, Path(folder))
        write_card(model_card(adapter, source=repo_id, license=license), Path(folder))
        return push_folder(Path(folder), repo_id, private=private, token=token)


def push_folder(folder: Path, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Uploads the adapter in a folder and its model card to the Hub, and returns the commit's address.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    hub.create_repo(repo_id, private=private, exist_ok=True)
    pushed = hub.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=[CONFIG_FILE, TENSOR_FILE, CARD_FILE],
        commit_message="Add a deltamem adapter",
    )
    return pushed.commit_url


def adapter_file(
    model: nn.Module, name: str | None = None, *, base_model: str | None = None, base_revision: str | None = None
) -> AdapterFile:
    """A model's adapter as plain tensors; the active one by default.

    Raises:
        ValueError: the model carries no such adapter.
    """
    attachment = attached(model)
    numbered = zip(attachment.layer_numbers(name), attachment.memories(name), strict=True)
    tensors = {
        f"layers.{i}.{part}": t.detach().clone() for i, memory in numbered for part, t in memory.named_parts().items()
    }
    found_model, found_revision = hub_origin(model)
    return AdapterFile(
        config=attachment.configs[name or str(attachment.active)],
        tensors=tensors,
        backbone=backbone_shape(model),
        base_model=base_model or found_model,
        base_revision=base_revision or (found_revision if base_model in (None, found_model) else None),
        backbone_sample=attachment.sample,
    )


def adapter_fingerprint(model: nn.Module, name: str | None = None) -> str:
    """SHA-256, in hex, of an adapter's configuration and tensors: what a saved memory belongs to.

    Raises:
        ValueError: the model carries no such adapter.
    """
    return adapter_file(model, name).fingerprint


def add_adapter(model: nn.Module, adapter: AdapterFile, name: str = "default") -> Attachment:
    """Puts an adapter that has been read on a model and makes it the active one.

    Raises:
        AdapterFileError: it was made for a backbone of another shape. The model is left as it was.
        ValueError: the model's attention is unknown, or the name is taken.
    """
    shape = backbone_shape(model)
    if differences := adapter.backbone.differences(shape):
        raise AdapterFileError(
            f"This adapter was made for a backbone with {'; '.join(differences)} (as this {type(model).__name__} has)."
            + (f" It belongs to {adapter.base_model}." if adapter.base_model else "")
        )
    adapter = replace(adapter, backbone=shape)
    base_model = hub_origin(model)[0]
    if base_model is not None and adapter.base_model not in (None, base_model):
        warnings.warn(
            f"This adapter was trained on {adapter.base_model} and you are loading it onto {base_model}, "
            "where it will work less well.",
            stacklevel=3,
        )
    if adapter.untrained:
        warnings.warn(
            "This adapter was never trained: its corrections are noise, and the model will babble. Train it first "
            "(deltamem train), or leave the backbone as it is with DeltaMemConfig(init='zero').",
            stacklevel=3,
        )
    # A loaded adapter needs no initial values, and a quantised backbone could not give them.
    attachment = attach(model, replace(adapter.config, init="zero"), name=name)
    if not same_weights(adapter.backbone_sample, attachment.sample):
        warnings.warn(
            f"This adapter was made for a backbone with other weights than this {type(model).__name__} has, though of "
            "the same shape; it will work less well, or not at all.",
            stacklevel=3,
        )
    attachment.configs[name] = adapter.config
    with torch.no_grad():
        for layer, memory in zip(attachment.layer_numbers(name), attachment.memories(name), strict=True):
            memory.config = adapter.config
            for part, tensor in memory.named_parts().items():
                tensor.copy_(adapter.tensors[f"layers.{layer}.{part}"])
    attachment.settle(name)
    return attachment


def backbone_shape(model: nn.Module) -> BackboneShape:
    """The shape of a model's attention, attached or bare.

    Raises:
        ValueError: its attention class is unknown.
    """
    try:
        sites = attached(model).sites
    except ValueError:
        sites = find_attention(model)
    return BackboneShape.of([projection_sizes(site) for site in sites])


def hub_origin(model: nn.Module) -> tuple[str | None, str | None]:
    """The Hub id and commit that a model was loaded from; ``None`` for a local folder.

    For an attached model it is what was so when it was attached to.
    """
    try:
        return attached(model).origin
    except ValueError:
        return find_origin(model)


def read_adapter_from(source: str | Path, *, revision: str | None = None) -> AdapterFile:
    """Reads an adapter folder in either format, or the Hub's copy of one.

    Raises:
        AdapterFileError: there is none, or it is damaged.
    """
    folder = Path(source)
    if not folder.exists() and HUB_ID.fullmatch(str(source)):
        folder = _download(str(source), revision)
    if not folder.is_dir():
        raise AdapterFileError(f"There is no adapter folder {source}. Give a folder or a Hub id (owner/name).")
    if config_file(folder) is not None:
        return read_adapter(folder)
    if (folder / RELEASE_CONFIG_FILE).exists():
        return read_release(folder)
    if (folder / OLD_CONFIG_FILE).exists():
        raise AdapterFileError(f"{source} holds a LoRA of PEFT, not an adapter of deltamem; load it with peft.")
    raise AdapterFileError(f"{source} holds no adapter: neither {CONFIG_FILE} nor {RELEASE_CONFIG_FILE} is there.")


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AdapterFileError(
            f"There is no folder {repo_id}, and the Hub did not give an adapter of that id: {reason}"
        ) from None
