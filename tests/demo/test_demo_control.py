"""The static control of the demo's adapters."""

from pathlib import Path

import pytest
import torch

from deltamem.adapters import read_adapter_from
from deltamem.demo.adapters import RECIPES
from deltamem.demo.control import train_control
from deltamem.eval.loading import embedded_backbone
from deltamem.eval.methods import build_method, default_methods


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_a_control_is_trained_and_takes_its_place_in_the_table(tmp_path: Path) -> None:
    assert train_control("token", tmp_path / "static", steps=2)
    written = read_adapter_from(tmp_path / "static")
    assert written.config == RECIPES["token"].config
    assert all(torch.isfinite(tensor).all() for tensor in written.tensors.values())

    backbone = embedded_backbone(tmp_path / "static")
    assert default_methods(backbone.adapters)[-1] == "static"
    assert build_method("static", backbone).adapter == "static"  # type: ignore[attr-defined]
    assert build_method("shuffled", backbone).adapter == "multi"  # type: ignore[attr-defined]
