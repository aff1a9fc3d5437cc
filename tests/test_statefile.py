"""A saved memory comes back whole, or not at all."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import nn

import deltamem
from deltamem import DeltaMemConfig, MemoryState, StateFileError, Step
from deltamem.formats.state import FORMAT, StateInfo, _checksum, pack_state, read_state, unpack_state
from tiny import adapted, assert_same_state, backbone, enliven, live_state, tokens


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return adapted()


@pytest.fixture(scope="module")
def written(model: nn.Module) -> MemoryState:
    """Three rows that have written 7, 7 and 4 tokens."""
    step = Step(live_state(model, 3), mask=torch.tensor([[1] * 7, [1] * 7, [1] * 4 + [0] * 3]).bool())
    with torch.no_grad():
        model(tokens(3, 7), memory=step, use_cache=False)
    return step.new_state


def test_a_memory_comes_back_bit_for_bit(model: nn.Module, written: MemoryState, tmp_path: Path) -> None:
    deltamem.save_state(written, tmp_path / "new" / "ravi.safetensors", model)
    found = deltamem.load_state(tmp_path / "new" / "ravi.safetensors", model)
    assert_same_state(found, written, 0)
    assert_same_state(deltamem.state_from_bytes(deltamem.state_to_bytes(written, model), model), written, 0)


def test_a_memory_goes_on_as_if_it_had_never_been_saved(model: nn.Module, written: MemoryState) -> None:
    found = deltamem.state_from_bytes(deltamem.state_to_bytes(written, model), model)
    steps = [Step(written), Step(found)]
    with torch.no_grad():
        a, b = (model(tokens(3, 5), memory=step, use_cache=False).logits for step in steps)
    assert torch.equal(a, b)
    assert_same_state(steps[0].new_state, steps[1].new_state, 0)


def test_an_open_segment_is_kept() -> None:
    model = adapted(write="message")
    step = Step(deltamem.new_state(model), segment_ids=torch.tensor([[0, 0, 1, 1, 1]]))
    with torch.no_grad():
        model(tokens(1, 5), memory=step, use_cache=False)
    found = deltamem.state_from_bytes(deltamem.state_to_bytes(step.new_state, model), model)
    assert found.open is not None
    assert found.open.count.tolist() == [3]
    assert_same_state(found, step.new_state, 0)


def test_the_file_tells_what_it_is(model: nn.Module, written: MemoryState, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    deltamem.save_state(written, path, model)
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["deltamem"])
    assert found["fingerprint"] == deltamem.adapter_fingerprint(model)
    assert (found["format_version"], found["rows"], found["tokens"]) == (FORMAT.version, 3, [7, 7, 4])
    assert found["shapes"]["state"] == [3, 3, 1, 4, 4]
    state, info = read_state(path)
    assert info == StateInfo(deltamem.adapter_fingerprint(model), None, (7, 7, 4))
    assert_same_state(state, written, 0)


def test_a_description_nested_too_deeply_is_refused(written: MemoryState) -> None:
    deep = save({"tokens": written.tokens}, {"deltamem": "[" * 20_000})
    with pytest.raises(StateFileError, match="not a memory that deltamem saved"):
        unpack_state(deep)


@pytest.mark.parametrize("field", ["fingerprint", "backbone"])
def test_half_a_character_in_a_description_is_refused(field: str, written: MemoryState) -> None:
    told = replace(StateInfo("f" * 64, None, (7, 7, 4)), **{field: "\ud800"})
    with pytest.raises(StateFileError, match=r"its fingerprint and backbone must be text, not .*\\ud800"):
        unpack_state(pack_state(written, told))


def test_the_default_adapters_memory_is_a_few_kilobytes() -> None:
    state = MemoryState.zeros(36, 1, 1, 8)
    assert state.nbytes == 9216
    assert len(pack_state(state, StateInfo("f" * 64, "Qwen/Qwen3-4B-Instruct-2507", (0,)))) < 1.1 * state.nbytes


def test_equal_memories_are_equal_bytes(model: nn.Module, written: MemoryState) -> None:
    assert deltamem.state_to_bytes(written, model) == deltamem.state_to_bytes(written, model)


def test_another_adapters_memory_is_refused(written: MemoryState, model: nn.Module, tmp_path: Path) -> None:
    deltamem.save_state(written, tmp_path / "m", model)
    other = adapted()
    enliven(other, seed=8)
    with pytest.raises(StateFileError, match=r"/m: This memory was written by another adapter \("):
        deltamem.load_state(tmp_path / "m", other)


def test_a_trained_on_adapter_is_another_adapter(model: nn.Module, written: MemoryState) -> None:
    data = deltamem.state_to_bytes(written, model)
    other = adapted()
    deltamem.state_from_bytes(data, other)
    with torch.no_grad():
        deltamem.attached(other).memories()[2].gate_bias[0] += 1e-4
    with pytest.raises(StateFileError, match="another adapter"):
        deltamem.state_from_bytes(data, other)


def test_another_backbone_is_refused() -> None:
    models = []
    for origin in ("owner/one", "owner/two"):
        models.append(backbone())
        models[-1].config._name_or_path = origin
        deltamem.attach(models[-1], DeltaMemConfig(init="zero"))
        enliven(models[-1])
    data = deltamem.state_to_bytes(deltamem.new_state(models[0]), models[0])
    with pytest.raises(StateFileError, match="written on owner/one; this model is owner/two"):
        deltamem.state_from_bytes(data, models[1])


def test_a_memory_of_another_shape_cannot_be_saved(model: nn.Module, written: MemoryState) -> None:
    with pytest.raises(StateFileError, match=r"state\.0 is .*\[1, 1, 5, 5\] in this memory.*\[1, 1, 4, 4\]"):
        deltamem.state_to_bytes(MemoryState.zeros(3, 1, 1, 5), model)
    with pytest.raises(StateFileError, match="holds 2 layers"):
        deltamem.state_to_bytes(MemoryState.zeros(2, 1, 1, 4), model)
    with pytest.raises(StateFileError, match="and an open segment"):
        deltamem.state_to_bytes(MemoryState.zeros(3, 1, 1, 4, pending=12), model)


def test_a_bare_model_has_no_memory_to_save(written: MemoryState) -> None:
    with pytest.raises(ValueError, match="carries no memory"):
        deltamem.state_to_bytes(written, backbone())


def repacked(written: MemoryState, change: Any, **described: Any) -> bytes:
    """A file with a right checksum around wrong contents."""
    data = pack_state(written, StateInfo("f", None, (0,)))
    tensors = load(data)
    change(tensors)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    description = json.loads(header["__metadata__"]["deltamem"]) | described
    del description["sha256"]
    description["sha256"] = _checksum(description, tensors)
    return save(tensors, {"deltamem": json.dumps(description)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(state=t["state"].half()), "float16; states are float32"),
        (lambda t: t.update(state=t["state"][..., :2].contiguous()), r"wanted \[B, N, R, R\]"),
        (lambda t: t.update(tokens=t["tokens"][:1]), "tokens is .*wanted int64"),
        (lambda t: t.pop("tokens"), "lacks 'tokens'"),
        (lambda t: t.pop("state"), "lacks 'state'"),
        (lambda t: t.update(state=t["state"][:0]), "at least one layer"),
        (lambda t: t.update(state=torch.tensor(1.0)), "0-d tensor"),
        (lambda t: t.update(more=torch.zeros(1)), "unknown tensors: more"),
        (lambda t: t.update({"open.count": torch.zeros(3, dtype=torch.int64)}), "lacks 'open.sum'"),
    ],
)
def test_a_well_formed_file_with_wrong_contents_is_refused(written: MemoryState, change: Any, message: str) -> None:
    with pytest.raises(StateFileError, match=message):
        unpack_state(repacked(written, change))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"fingerprint": 7}, "fingerprint and backbone must be text, not 7"),
        ({"backbone": ["a"]}, "fingerprint and backbone must be text"),
        ({"tokens": "12"}, "tokens must be a list of numbers"),
        ({"tokens": [1.5]}, "tokens must be a list of numbers"),
    ],
)
def test_a_well_formed_file_with_a_wrong_description_is_refused(
    model: nn.Module, written: MemoryState, described: dict[str, Any], message: str
) -> None:
    with pytest.raises(StateFileError, match=message):
        deltamem.state_from_bytes(repacked(written, lambda tensors: None, **described), model)


def test_a_newer_format_and_another_kind_of_file_are_refused(written: MemoryState) -> None:
    data = pack_state(written, StateInfo("f", None, (7, 7, 4)))
    with pytest.raises(StateFileError, match="format version 9, and this deltamem reads versions up to"):
        unpack_state(re.sub(rb'(format_version\\+": )\d', rb"\g<1>9", data))
    for other in (save({"a": torch.zeros(1)}), save({"a": torch.zeros(1)}, {"deltamem": "[]"})):
        with pytest.raises(StateFileError, match="not a memory that deltamem saved"):
            unpack_state(other)


def test_a_missing_file_is_an_error_and_not_an_empty_memory(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(StateFileError, match=r"Cannot read the memory .*absent: No such file"):
        deltamem.load_state(tmp_path / "absent", model)


_STATE = replace(MemoryState.zeros(2, 2, 1, 3), tokens=torch.tensor([5, 6]))
_DATA = pack_state(_STATE, StateInfo("0123456789abcdef" * 4, "owner/name", (5, 6)))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(_DATA) - 1), st.integers(0, 7))
def test_no_single_flipped_bit_goes_unnoticed(place: int, bit: int) -> None:
    changed = bytearray(_DATA)
    changed[place] ^= 1 << bit
    with pytest.raises(StateFileError):
        unpack_state(bytes(changed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(_DATA) - 1))
def test_no_truncation_goes_unnoticed(length: int) -> None:
    with pytest.raises(StateFileError):
        unpack_state(_DATA[:length])
    with pytest.raises(StateFileError):
        unpack_state(_DATA + _DATA[:1])


def test_saving_over_a_memory_leaves_no_other_file(model: nn.Module, written: MemoryState, tmp_path: Path) -> None:
    for _ in range(2):
        deltamem.save_state(written, tmp_path / "m", model)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_every_config_of_the_default_shape_fits(tmp_path: Path) -> None:
    model = backbone()
    for name, config in {
        "a": DeltaMemConfig(),
        "b": DeltaMemConfig(states=4, write="sentence", layers="front:1"),
    }.items():
        deltamem.attach(model, config, name=name)
        state = live_state(model, 2)
        assert_same_state(deltamem.state_from_bytes(deltamem.state_to_bytes(state, model), model), state, 0)
