"""``deltamem bench``, as a person types it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from deltamem.cli.main import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main(["bench", "generation", *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def test_the_embedded_backbone_is_measured_and_lengths_beyond_its_window_are_told(run: Any, tmp_path: Path) -> None:
    file, picture = tmp_path / "found" / "generation.json", tmp_path / "generation.png"
    options = ("--prompt", "48,600", "--decode", "3", "--runs", 1, "--json", file, "--plot", picture)
    code, out, err = run("--model", "embedded", "--device", "cpu", *options)
    assert code == 0, err
    assert "prompt 600 and decode 3 do not fit the window of 512 tokens" in out
    assert all(name in out for name in ("bare", "δ-mem", "LoRA", "prefill_only", "peak"))
    found = json.loads(file.read_text())
    assert [(case["prompt"], case["side"]) for case in found["cases"]] == [
        (48, "bare"),
        (48, "delta-mem"),
        (48, "lora"),
    ]
    assert found["skipped"] == [{"prompt": 600, "decode": 3}]
    assert (found["dtype"], found["prompt_logits"], found["machine"]["device"]) == ("float32", "last", "cpu")
    assert found["adapter"]["rank"] == 8
    for case in found["cases"]:
        taken = case["seconds"][0]
        assert case["tokens_per_second"]["full_generate"] == pytest.approx(
            3 / (taken["prefill"] + taken["decode"]), rel=0.02
        )
        assert bool(found["unmeasured"]) == (case["peak_mib"]["generate"] is None)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --model"),
        (("--model", "embedded", "--shape", "small"), "Give --model"),
        (("--model", "embedded", "--prompt", "8,x"), "numbers of tokens with commas"),
        (("--model", "embedded", "--device", "tpu"), "--device is cpu or cuda"),
        (("--shape", "huge"), "There is no shape 'huge'"),
        (("--model", "embedded", "--prompt", "512"), "fits the window of 512 tokens"),
    ],
)
def test_wrong_usage_is_told(run: Any, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*arguments)
    assert code != 0
    assert message in " ".join(err.replace("│", " ").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(run: Any) -> None:
    code, _, err = run("--model", "embedded", "--device", "cuda")
    assert (code, "PyTorch sees no CUDA device" in err) == (1, True)
