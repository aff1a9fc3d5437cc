"""The questions on pretrained models: the scenes, the shares, and a small run on a model that is there already."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltamem.demo.backbone import load_backbone
from questions import pretrained
from stories import LENGTH, WRITTEN


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that has told its stories: of random tokens."""
    monkeypatch.setattr(pretrained, "BATCH", 4)
    model, tokenizer = load_backbone()
    model.save_pretrained(tmp_path / "teller")
    tokenizer.save_pretrained(tmp_path / "teller")
    for count, temperature in ((8 + pretrained.BATCH, pretrained.TEMPERATURE), (8, pretrained.HOT)):
        told = torch.randint(100, 3000, (count, LENGTH), generator=torch.Generator().manual_seed(count))
        path = tmp_path / "runs" / f"teller-{count}-{temperature}-0.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"stories": told.to(torch.int32)}, path)
    return tmp_path / "teller"


def held(folder: Path) -> pretrained.Held:
    path = folder.parent / "runs" / f"teller-{8 + pretrained.BATCH}-{pretrained.TEMPERATURE}-0.safetensors"
    return pretrained.held_out(path, 8, 3072, 0)


def test_scenes_write_the_beginning_and_what_they_say(folder: Path) -> None:
    story = held(folder)
    own = story.beginnings
    assert own.shape == (8, WRITTEN)
    scenes = pretrained.all_scenes(story)
    for name, told in scenes.items():
        passages = told(own)
        tokens = sum(ids.shape[1] for ids, _ in passages)
        times = [torch.equal(ids, own) for ids, _ in passages]
        assert any(times), name
        if name.startswith("after"):
            assert times[-1]
            assert tokens == WRITTEN + int(name.split()[1].replace(",", ""))
        if name.startswith("then"):
            assert times[0]
            assert not any(times[1:])
        if name.startswith("told"):
            assert all(times)
            assert len(times) == int(name.split()[1])
    ((_, written),) = scenes["one token of 4 written"](own)
    assert written is not None
    assert written.sum(1).tolist() == [WRITTEN // 4] * 8
    assert not {tuple(row) for row in own.tolist()} & {tuple(row) for row in story.others.tolist()}


def test_shares_are_of_the_gap() -> None:
    ones = torch.ones(20)
    yardsticks = {"nothing": 3 * ones, "full": ones, "static": 2.2 * ones}
    found = pretrained.shares(yardsticks, {"own": 2 * ones[:8], "other": 2.5 * ones[:8]})
    assert found["memory"]["value"] == pytest.approx(0.1)
    assert found["memory"]["interval"] == pytest.approx([0.1, 0.1])
    assert found["against_other"]["value"] == pytest.approx(0.25)


def test_a_small_run_is_measured_drawn_and_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "SINCE", {0: 8, 80: 8, 240: 4})
    monkeypatch.setattr(pretrained, "BEFORE", (80,))
    monkeypatch.setattr(pretrained, "REPEATS", (4,))
    names = [pretrained.CENTRE, f"segments of {pretrained.SEGMENT} tokens"]
    monkeypatch.setattr(pretrained, "VARIANTS", {name: pretrained.VARIANTS[name] for name in names})
    runs = folder.parent / "runs"
    given = [str(folder), "--steps", "1", "--held-out", "8", "--runs", str(runs)]
    output = folder.parent / "found.json"
    assert pretrained.main([*given, "--json", str(output), "--plot", str(output.with_suffix(".png"))]) == 0
    found = json.loads(output.read_text())["models"]["teller"]
    assert [point["rows"] for point in found["since"]] == [8, 8, 4]
    assert list(found["variants"]) == names
    # The same adapter, told the same, whichever way it is measured.
    as_trained = found["variants"][pretrained.CENTRE]
    assert found["scenes"]["as trained"] == as_trained
    assert {key: found["since"][0][key] for key in as_trained} == as_trained
    assert found["scenes"]["told 4 times"] != as_trained
    options = argparse.Namespace(steps=1, held_out=8, seed=0, runs=runs)
    path = runs / f"teller-{8 + pretrained.BATCH}-{pretrained.TEMPERATURE}-0.safetensors"
    before = (runs / "teller-delta-rule-1-0" / "metrics.json").stat().st_mtime_ns
    assert pretrained.train(folder, path, pretrained.CENTRE, {}, options) == runs / "teller-delta-rule-1-0"
    assert (runs / "teller-delta-rule-1-0" / "metrics.json").stat().st_mtime_ns == before
