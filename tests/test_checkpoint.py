"""Adapter folders: what is written comes back, and what is damaged says so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltamem import AdapterFileError
from deltamem.files import write_atomically
from deltamem.formats.adapter import AdapterFile, read_adapter, write_adapter
from deltamem.formats.hub import adapter_file
from tiny import adapted


@pytest.fixture
def adapter() -> AdapterFile:
    return adapter_file(adapted(scale="head", output_norm=True, layers=(0, 2)), base_model="owner/name")


@pytest.fixture
def folder(adapter: AdapterFile, tmp_path: Path) -> Path:
    write_adapter(adapter, tmp_path)
    return tmp_path


def edit(folder: Path, *path: str, value: Any = None, drop: bool = False) -> None:
    """Changes or drops one field of the folder's configuration file."""
    file = folder / "deltamem_adapter.json"
    whole = place = json.loads(file.read_text())
    for name in path[:-1]:
        place = place[name]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    file.write_text(json.dumps(whole))


def edit_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")


def test_what_is_written_is_read(adapter: AdapterFile, folder: Path) -> None:
    found = read_adapter(folder)
    for field in ("config", "backbone", "base_model", "base_revision", "layer_numbers", "fingerprint"):
        assert getattr(found, field) == getattr(adapter, field)
    assert list(found.tensors) == list(adapter.tensors)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in adapter.tensors.items())
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "deltamem_adapter.json"]


def test_names_know_no_model(adapter: AdapterFile) -> None:
    parts = {name.removeprefix("layers.2.") for name in adapter.tensors if name.startswith("layers.2.")}
    memory = {"q_proj", "k_proj", "v_proj", "beta_proj", "beta_bias", "output_norm", "scale"}
    assert parts == memory | {f"delta_{head}" for head in "qkvo"}
    assert not any(name.startswith("layers.1.") for name in adapter.tensors)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("config", "ranc"), 8, "Unknown adapter configuration field 'ranc'"),
        (("config", "rank"), "8", "rank must be a positive integer, not '8'"),
        (("config", "rank"), True, "rank must be a positive integer, not True"),
        (("config", "rank"), 10**19, "rank must be at most 65536, not 1"),
        (("config", "alpha"), 10**400, "alpha must be a finite number, not 1"),
        (("config", "normalize_qk"), 1, "normalize_qk must be of type bool, not 1"),
        (("config", "heads"), ["q", "x"], "heads must be distinct letters"),
        (("config", "alpha"), -1.0, "alpha must be above 0"),
        (("config", "rank"), 8, r"layers\.0\.q_proj has shape \[4, 32\]; wanted \[8, 32\]"),
        (("config", "alpha"), 5.0, "changed since"),
        (("config", "layers"), "all", "lacks the tensors layers.1"),
        (("config", "layers"), [0, 7], "this backbone has layers 0 to 2"),
        (("config", "coupled_gates"), False, "lacks the tensors layers.0.lambda_bias"),
        (("backbone", "hidden_size"), 0, "hidden_size must be an integer from 1"),
        (("backbone", "layers"), 10**9, "layers must be an integer from 1 to 10000"),
        (("backbone", "outputs"), {"x": 3}, "unknown head 'x'"),
        (("base_model",), 3, "base_model and base_revision must be text"),
        (("base_model",), "a\ud800", "base_model and base_revision must be text"),
        (("format",), "peft", "is not a deltamem-adapter file"),
        (("format_version",), 999, "reads versions up to"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    edit(folder, *path, value=value)
    with pytest.raises(AdapterFileError, match=message):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["config", "backbone", "fingerprint", "base_model"])
def test_a_missing_field_is_named(folder: Path, name: str) -> None:
    edit(folder, name, drop=True)
    with pytest.raises(AdapterFileError, match=f"lacks the field '{name}'"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.0.q_proj"), "lacks the tensors layers.0.q_proj"),
        (lambda t: t.update(extra=torch.zeros(1)), "does not expect the tensors extra"),
        (lambda t: t.update({"layers.0.scale": torch.zeros(5)}), r"layers.0.scale has shape \[5\]; wanted \[4\]"),
        (lambda t: t.update({"layers.0.scale": torch.zeros(4, dtype=torch.int32)}), "wanted floating point"),
        (lambda t: t["layers.0.scale"].add_(1), "changed since"),
    ],
)
def test_a_wrong_tensor_is_named(folder: Path, change: Any, message: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(AdapterFileError, match=message):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["adapter.safetensors", "deltamem_adapter.json"])
def test_a_truncated_or_missing_file_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in (0, 9, len(whole) // 2, len(whole) - 3):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(AdapterFileError, match=name):
            read_adapter(folder)
    (folder / name).unlink()
    with pytest.raises(AdapterFileError, match=f"Cannot read .*{name}"):
        read_adapter(folder)


def test_a_configuration_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "deltamem_adapter.json").write_text("[1]")
    with pytest.raises(AdapterFileError, match="JSON object"):
        read_adapter(folder)


def test_the_fingerprint_sees_every_number_and_every_field(adapter: AdapterFile) -> None:
    seen = {adapter.fingerprint}
    for name, tensor in adapter.tensors.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        seen.add(replace(adapter, tensors={**adapter.tensors, name: changed}).fingerprint)
    seen.add(replace(adapter, config=replace(adapter.config, alpha=5.0)).fingerprint)
    assert len(seen) == len(adapter.tensors) + 2


def test_the_fingerprint_is_of_values_and_not_of_their_spelling(adapter: AdapterFile) -> None:
    assert replace(adapter, config=replace(adapter.config, alpha=4)).fingerprint == adapter.fingerprint
    backwards = dict(reversed(adapter.tensors.items()))
    assert replace(adapter, tensors=backwards).fingerprint == adapter.fingerprint
    assert replace(adapter, base_model=None).fingerprint == adapter.fingerprint


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.mkdir()
    with pytest.raises(OSError, match="file"):
        write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_layer_of_its_own_width_is_kept(adapter: AdapterFile) -> None:
    outputs = {**adapter.backbone.outputs, "q": (64, 64, 32)}
    wide = replace(adapter.backbone, outputs=outputs)
    assert wide.at(0)["q"] == 64
    with pytest.raises(AdapterFileError, match=r"layers\.2\.delta_q has shape"):
        replace(adapter, backbone=wide)
