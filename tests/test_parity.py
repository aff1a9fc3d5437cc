"""Every case recorded from the published release, and what happens when something is wrong."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltamem import AdapterFileError
from deltamem.parity import (
    RECIPES,
    TOLERANCE,
    ParityError,
    StepDifference,
    _backbone_folder,
    find_cases,
    run_case,
)

GOLDEN = Path(__file__).parent / "golden"
CASES = find_cases(GOLDEN)


def test_all_cases_are_here() -> None:
    assert len(CASES) == 14
    assert find_cases(CASES[3]) == [CASES[3]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_recorded_run_is_reproduced(case: Path) -> None:
    steps = run_case(case)
    assert [step.step for step in steps] == [recipe.name for recipe in RECIPES]
    for step in steps:
        assert step.passed, step


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A copy of one case and its backbone, to be damaged."""
    shutil.copytree(GOLDEN / "backbone_qwen3", tmp_path / "backbone_qwen3")
    shutil.copytree(GOLDEN / "qwen3_ssw_message", tmp_path / "qwen3_mine")
    return tmp_path / "qwen3_mine"


def edit(path: Path, change: Any) -> None:
    if path.suffix == ".pt":
        tensors = torch.load(path, weights_only=True)
        change(tensors)
        torch.save(tensors, path)
    else:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)


@pytest.mark.parametrize("part", ["memory_q_proj", "memory_k_proj", "memory_v_proj", "beta_bias", "delta_o_proj"])
def test_a_perturbed_adapter_fails(case: Path, part: str) -> None:
    edit(case / "delta_mem_adapter.pt", lambda t: t[f"model.layers.1.self_attn.{part}"].add_(0.01))
    assert not all(step.passed for step in run_case(case))


def test_a_case_in_our_own_format_runs_too(case: Path) -> None:
    from deltamem.formats.adapter import write_adapter
    from deltamem.formats.release import read_release

    write_adapter(read_release(case), case)
    for name in ("delta_mem_config.json", "delta_mem_adapter.pt"):
        (case / name).unlink()
    assert all(step.passed for step in run_case(case))


@pytest.mark.parametrize("name", ["continue.logits", "prefill.state.3"])
def test_a_recorded_nan_fails_its_step(case: Path, name: str) -> None:
    edit(case / "expected.safetensors", lambda t: t[name].view(-1)[:1].fill_(math.nan))
    failed = [step for step in run_case(case) if not step.passed]
    assert [step.step for step in failed] == [name.split(".")[0]]


def test_the_tolerance_is_a_limit() -> None:
    assert StepDifference("c", "s", TOLERANCE, TOLERANCE).passed
    assert not StepDifference("c", "s", 0, 1.01 * TOLERANCE).passed
    assert not StepDifference("c", "s", math.inf, 0).passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("prefill.logits"), r"lacks prefill\.logits"),
        (lambda t: t.pop("cached_step4.state.2"), r"lacks cached_step4\.state\.2"),
        (lambda t: t.update({"prefil.logits": torch.zeros(1)}), r"holds the unknown prefil\.logits"),
        (lambda t: t.update({"prefill.state.0": torch.zeros(2, 4, 4)}), r"prefill\.state\.0 has shape \[2, 4, 4\]"),
        (
            lambda t: [t.pop(n) for n in list(t) if n.startswith("prefill.")],
            "lacks the step prefill, which others start",
        ),
        (lambda t: [t.pop(n) for n in list(t) if ".logits" not in n], "and 52 more"),
        (lambda t: t.clear(), "holds no recorded step"),
    ],
)
def test_a_malformed_recording_is_an_error(case: Path, change: Any, message: str) -> None:
    edit(case / "expected.safetensors", change)
    with pytest.raises(ParityError, match=message):
        run_case(case)


def test_what_is_not_there_is_named(case: Path) -> None:
    (case / "expected.safetensors").write_bytes(b"short")
    with pytest.raises(ParityError, match=r"expected\.safetensors is truncated"):
        run_case(case)
    shutil.copy(GOLDEN / "qwen3_tsw_qo" / "expected.safetensors", case)
    (case / "delta_mem_adapter.pt").unlink()
    with pytest.raises(AdapterFileError, match="Cannot read"):
        run_case(case)
    shutil.copy(GOLDEN / "qwen3_tsw_qo" / "delta_mem_adapter.pt", case)
    shutil.rmtree(case.parent / "backbone_qwen3")
    with pytest.raises(ParityError, match="The backbone of qwen3_mine is missing: it should be at"):
        run_case(case)
    for folder, message in ((case / "no", "There is no folder"), (GOLDEN / "backbone_qwen3", "is not a parity case")):
        with pytest.raises(ParityError, match=message):
            find_cases(folder)


def test_a_part_of_the_steps_is_a_case_too(case: Path) -> None:
    kept = ("prefill", "left_padded", "cached_prefill", "cached_step0")
    edit(case / "expected.safetensors", lambda t: [t.pop(n) for n in list(t) if n.split(".")[0] not in kept])
    steps = run_case(case)
    assert tuple(step.step for step in steps) == kept
    assert all(step.passed for step in steps)


def test_the_backbone_is_the_longest_that_fits_the_name_or_the_only_one(case: Path) -> None:
    backbone = case.parent / "backbone_qwen3"
    alone = case.rename(case.with_name("case1"))
    assert _backbone_folder(alone) == backbone
    longer = shutil.copytree(backbone, case.parent / "backbone_qwen3_big")
    shutil.copytree(backbone, case.parent / "backbone_qwen")
    names = {"qwen3_mine": backbone, "qwen3_big": longer, "qwen3_big_one": longer, "qwen3_bigger": backbone}
    for name, wanted in names.items():
        assert _backbone_folder(case.with_name(name)) == wanted
    with pytest.raises(ParityError, match=r"case1 belong to.*backbone_qwen, backbone_qwen3, backbone_qwen3_big"):
        run_case(alone)
