"""Adapters and memories of every version that was ever written open; only a newer package's are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import deltamem
from deltamem.formats import adapter, state
from deltamem.formats.adapter import read_adapter
from deltamem.formats.state import read_state, unpack_state
from deltamem.formats.versions import Format
from tiny import adapted, backbone

RECORDED = Path(__file__).parent / "recorded"
NEXT = adapter.FORMAT.version + 1
FINGERPRINT = "a2b77ee8d0fb3afd418f7a4d1d8d4126add8248b0ab3cc1eb4140051680e389a"


def test_there_is_a_recorded_file_of_every_version() -> None:
    found = {path.stem for path in RECORDED.iterdir()}
    wanted = {f"adapter-{version}" for version in range(1, adapter.FORMAT.version + 1)}
    assert found == wanted | {f"state-{version}" for version in range(1, state.FORMAT.version + 1)}


@pytest.mark.parametrize("folder", sorted(RECORDED.glob("adapter-*")), ids=lambda folder: folder.name)
def test_an_adapter_of_every_version_opens(folder: Path, tmp_path: Path) -> None:
    found = read_adapter(folder)
    assert found.fingerprint == FINGERPRINT
    assert (found.base_model, found.base_revision) == ("owner/name", "0123abc")
    assert (found.config.write, found.config.layers, found.config.rank) == ("message", (0, 2), 2)
    model = backbone("llama")
    deltamem.load_adapter(model, folder)
    assert deltamem.adapter_fingerprint(model) == FINGERPRINT
    shutil.copytree(folder, tmp_path / "again")
    deltamem.save_adapter(model, tmp_path / "again")
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == {"README.md", "adapter.safetensors", "deltamem_adapter.json"}
    assert read_adapter(tmp_path / "again").fingerprint == FINGERPRINT


@pytest.mark.parametrize("path", sorted(RECORDED.glob("state-*")), ids=lambda path: path.stem)
def test_a_memory_of_every_version_opens(path: Path) -> None:
    found, info = read_state(path)
    assert info.fingerprint == FINGERPRINT
    assert found.tokens.tolist() == [7, 7]
    assert found.open is not None
    assert found.open.count.tolist() == [3, 3]
    torch.testing.assert_close(found.norms()[0, :, 0], torch.tensor([0.0499, 0.9844]), atol=1e-4, rtol=0)
    model = backbone("llama")
    deltamem.load_adapter(model, RECORDED / "adapter-1")
    assert deltamem.load_state(path, model).batch == 2


def lengthened(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """What a next version could be: another name, and a tensor in another shape."""
    description["tokens"] = description.pop("written", description["tokens"])
    tensors["state"] = tensors["state"] * 2


def test_a_new_version_is_one_function_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = read_state(RECORDED / "state-1.safetensors")
    monkeypatch.setattr(state, "FORMAT", Format("deltamem-state", (*state.FORMAT.upgrades, lengthened)))
    found, info = read_state(RECORDED / "state-1.safetensors")
    assert torch.equal(found.states[0], before.states[0] * 2)
    written = state.pack_state(before, info)
    assert torch.equal(unpack_state(written)[0].states[0], before.states[0])
    monkeypatch.undo()
    now = state.FORMAT.version
    refused = f"format version {now + 1}, and this deltamem reads versions up to {now}"
    with pytest.raises(deltamem.StateFileError, match=refused):
        unpack_state(written)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (NEXT, f"has format version {NEXT}, and this deltamem reads versions up to {NEXT - 1}. Update deltamem."),
        (0, "is damaged: its format version is 0"),
        ("2", "is damaged: its format version is '2'"),
        (None, "is damaged: its format version is None"),
    ],
)
def test_a_newer_adapter_is_refused_and_a_wrong_version_is_damage(version: Any, message: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RECORDED / "adapter-2", tmp_path / "a")
    path = folder / "deltamem_adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    with pytest.raises(deltamem.AdapterFileError, match=message):
        read_adapter(folder)


def test_a_model_folder_takes_no_adapter(tmp_path: Path) -> None:
    model = adapted("llama")
    backbone("llama").save_pretrained(tmp_path)
    with pytest.raises(deltamem.AdapterFileError, match=r"is the folder of a model .*config\.json"):
        deltamem.save_adapter(model, tmp_path)


def test_a_model_can_be_loaded_from_beside_an_adapter(tmp_path: Path) -> None:
    """PEFT claims every folder with an adapter_config.json; ours has another name."""
    from transformers import AutoModelForCausalLM

    deltamem.save_adapter(adapted("llama"), tmp_path)
    backbone("llama").save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_lora_of_peft_is_no_adapter_of_ours(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(deltamem.AdapterFileError, match="LoRA of PEFT"):
        deltamem.load_adapter(backbone(), tmp_path)
    deltamem.save_adapter(adapted(), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {"peft_type": "LORA"}
