"""Adapter configurations: checks, layer choice and JSON."""

import dataclasses
import json
import pickle
from typing import Any

import pytest

from deltamem import DeltaMemConfig
from deltamem.config import ConfigError


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0},
        {"rank": 2.0},
        {"rank": True},
        {"states": -1},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"alpha": float("inf")},
        {"alpha": "16"},
        {"alpha": True},
        {"gate_bias": "x"},
        {"gate_bias": float("nan")},
        {"heads": ["q", ["o"]]},
        {"heads": None},
        {"layers": 1},
        {"normalize_qk": 1},
        {"write": None},
        {"heads": ()},
        {"heads": ("q", "q")},
        {"heads": ("q", "x")},
        {"layers": "some"},
        {"layers": "all:3"},
        {"layers": "front"},
        {"layers": "front:"},
        {"layers": "front:-1"},
        {"layers": "back:two"},
        {"layers": ()},
        {"layers": (2, 1)},
        {"layers": (1, 1)},
        {"layers": (-1,)},
        {"layers": (1.0,)},
        {"write": "word"},
        {"segment_reads": "open"},
        {"update_rule": "none"},
        {"gates": "open"},
        {"gates": "fixed", "coupled_gates": False},
        {"init": "zeros"},
        {"init_columns": 0},
        {"scale": "all"},
        {"scale_init": 0.0},
        {"scale_init": 2.0},
        {"scale_max": -1.0},
        {"output_norm_eps": 0.0},
    ],
    ids=str,
)
def test_an_impossible_value_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields)).removesuffix("_max")) as caught:
        DeltaMemConfig(**fields)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == f"{again.field} {again.problem}" == str(caught.value)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("all", range(8)),
        ("front:3", [0, 1, 2]),
        ("back:2", [6, 7]),
        ("middle:2", [3, 4]),
        ("middle:3", [2, 3, 4]),
        ("front:8", range(8)),
        ((0, 5, 7), [0, 5, 7]),
    ],
)
def test_layers_by_name_and_number(layers: Any, chosen: Any) -> None:
    assert DeltaMemConfig(layers=layers).select_layers(8) == tuple(chosen)


@pytest.mark.parametrize("layers", ["front:9", "back:0", (1, 8)], ids=str)
def test_layers_that_the_backbone_lacks_are_refused(layers: Any) -> None:
    with pytest.raises(ValueError, match="layer"):
        DeltaMemConfig(layers=layers).select_layers(8)


def test_heads_are_put_in_order() -> None:
    assert DeltaMemConfig(heads=("o", "q")) == DeltaMemConfig(heads=("q", "o"))


def test_json_and_back() -> None:
    config = DeltaMemConfig(rank=4, states=2, heads=("k", "o"), layers=(0, 3), write="sentence", scale="head")
    assert DeltaMemConfig.from_dict(json.loads(config.to_json())) == config
    assert json.loads(config.to_json()).keys() == {field.name for field in dataclasses.fields(config)}


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'depth'.*Known fields.*rank"):
        DeltaMemConfig.from_dict({"rank": 4, "depth": 3})
