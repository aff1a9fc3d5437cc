"""The published release's adapter files, on every adapter recorded from it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from deltamem import AdapterFileError
from deltamem.formats.adapter import read_adapter, write_adapter
from deltamem.formats.hub import adapter_file
from deltamem.formats.release import config_from_release, read_release, write_release
from tiny import adapted

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/delta_mem_config.json"))
FIELDS = json.loads((GOLDEN / "qwen3_tsw_qo" / "delta_mem_config.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_there_and_back_is_the_same(case: Path, tmp_path: Path) -> None:
    write_adapter(read_release(case), tmp_path / "ours")
    write_release(read_adapter(tmp_path / "ours"), tmp_path / "theirs")
    for folder in (case, tmp_path / "theirs"):
        assert json.loads((folder / "delta_mem_config.json").read_text()) == json.loads(
            (case / "delta_mem_config.json").read_text()
        )
    recorded = torch.load(case / "delta_mem_adapter.pt", weights_only=True)
    written = torch.load(tmp_path / "theirs" / "delta_mem_adapter.pt", weights_only=True)
    assert written.keys() == recorded.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in recorded.items())


def test_our_own_adapter_survives_the_release(tmp_path: Path) -> None:
    model = adapted(
        heads=("k", "v"), scale="layer", coupled_gates=False, layers="back:2", write="sentence", segment_reads="call"
    )
    ours = adapter_file(model)
    write_release(ours, tmp_path)
    found = read_release(tmp_path)
    assert found.layer_numbers == ours.layer_numbers == (1, 2)
    assert found.tensors.keys() == ours.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in ours.tensors.items())


def test_an_output_norm_without_its_head_survives(tmp_path: Path) -> None:
    ours = adapter_file(adapted(heads=("q",), output_norm=True))
    write_release(ours, tmp_path)
    assert read_release(tmp_path).tensors.keys() == ours.tensors.keys()


def test_segments_read_as_they_close_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="segment_reads='closed'"):
        write_release(adapter_file(adapted(write="message")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fields", [{"update_rule": "hebbian"}, {"update_rule": "accumulate"}, {"gates": "fixed"}])
def test_what_the_release_does_not_have_cannot_be_written(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=next(iter(fields.values()))):
        write_release(adapter_file(adapted(**fields)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_49_fields_are_accounted_for() -> None:
    assert len(FIELDS) == 49
    for name in FIELDS:
        with pytest.raises(AdapterFileError, match=f"lacks field {name}"):
            config_from_release({k: v for k, v in FIELDS.items() if k != name})
        with pytest.raises(AdapterFileError, match=name):
            config_from_release({**FIELDS, name: "something else"})
    with pytest.raises(AdapterFileError, match="unknown field novelty"):
        config_from_release({**FIELDS, "novelty": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("rank", 10**19),
        ("alpha", 10**400),
        ("alpha", float("nan")),
        ("couple_lambda", 1),
        ("num_memory_partitions", 2),
        ("memory_reader_read_only", 1),
        ("delta_heads", ["q", "z"]),
        ("delta_heads", []),
        ("target_layers", [3, 1]),
        ("delta_scale_max", -1.0),
        ("target_modules", ["mlp"]),
        ("output_init", "svd"),
        ("memory_write_granularity", "paragraph"),
        ("state_update_mode", "hebbian"),
    ],
)
def test_an_impossible_value_is_an_error_naming_the_field(name: str, value: Any) -> None:
    with pytest.raises(AdapterFileError, match=name):
        config_from_release({**FIELDS, name: value})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "qwen3_tsw_qo", tmp_path / "case")
    return tmp_path / "case"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.2.self_attn.beta_bias"), "lacks the tensors layers.2.beta_bias"),
        (lambda t: t.pop("model.layers.0.self_attn.delta_q_proj"), "lacks the matrix delta_q_proj"),
        (lambda t: t.update({"model.layers.0.mlp.up": torch.zeros(1)}), "unknown tensor 'model.layers.0.mlp.up'"),
        (lambda t: t.update({7: torch.zeros(1)}), "unknown tensor 7"),
        (lambda t: t["model.layers.0.self_attn.delta_k_proj"].fill_(1), "weights in delta_k_proj"),
        (lambda t: t.update({"model.layers.1.self_attn.beta_bias": torch.zeros(3)}), "layers.1.beta_bias has shape"),
        (lambda t: t.clear(), "holds no tensors"),
        (lambda t: t.update({"x": 3}), "dictionary of tensors"),
    ],
)
def test_wrong_tensors_are_named(folder: Path, change: Any, message: str) -> None:
    tensors = torch.load(folder / "delta_mem_adapter.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "delta_mem_adapter.pt")
    with pytest.raises(AdapterFileError, match=message):
        read_release(folder)


def test_half_precision_is_read_exactly(folder: Path) -> None:
    tensors = torch.load(folder / "delta_mem_adapter.pt", weights_only=True)
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "delta_mem_adapter.pt")
    found = read_release(folder).tensors["layers.1.q_proj"]
    assert torch.equal(found, tensors["model.layers.1.self_attn.memory_q_proj"].bfloat16().float())


def test_a_truncated_or_missing_file_is_named(folder: Path) -> None:
    path = folder / "delta_mem_adapter.pt"
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(AdapterFileError, match=r"delta_mem_adapter\.pt is damaged"):
            read_release(folder)
    path.unlink()
    with pytest.raises(AdapterFileError, match=r"Cannot read .*delta_mem_adapter\.pt"):
        read_release(folder)


@pytest.mark.parametrize(
    "data", [b"\x80\x02a.", b"\x80\x02}K\x01s.", b"\x80\x02R.", b"\x80\x02h\x07.", b"\x80\x02X\x02\0\0\0\xff\xfe."]
)
def test_malformed_bytes_are_refused_whatever_they_come_to(folder: Path, data: bytes) -> None:
    """A fuzzed file had its reader pop from an empty stack."""
    (folder / "delta_mem_adapter.pt").write_bytes(data)
    with pytest.raises(AdapterFileError, match=r"delta_mem_adapter\.pt is damaged"):
        read_release(folder)


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return subprocess.call, (["touch", self.target],)


def test_code_in_a_file_is_not_run(folder: Path, tmp_path: Path) -> None:
    torch.save({"model.layers.0.self_attn.beta_bias": _Payload(tmp_path / "ran")}, folder / "delta_mem_adapter.pt")
    with pytest.raises(AdapterFileError, match="holds code or other things than tensors") as refused:
        read_release(folder)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
