"""The commands that look at files, as a person types them."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import deltamem
from deltamem.cli.main import COMMANDS, main
from deltamem.extensions import how_to_install
from deltamem.formats.adapter import read_adapter
from tiny import adapted, live_state

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    model = adapted(states=2)
    deltamem.save_adapter(model, tmp_path / "adapter", base_model="owner/name")
    deltamem.save_state(live_state(model, 2), tmp_path / "ravi.safetensors", model)
    return tmp_path


def test_help_names_every_command_and_each_teaches_by_example(run: Any) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert f"Example: deltamem {name}" in " ".join(out.split())


def test_the_module_is_the_command() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "deltamem", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == deltamem.__version__


def test_convert_there_and_back(run: Any, tmp_path: Path) -> None:
    case = GOLDEN / "qwen3_o_rmsnorm_scale"
    code, out, _ = run("convert", case, tmp_path / "ours", "--base-model", "owner/name")
    assert code == 0
    assert "parameters on 4 layers, in the deltamem format" in out
    assert json.loads((tmp_path / "ours/deltamem_adapter.json").read_text())["base_model"] == "owner/name"
    assert run("convert", tmp_path / "ours", tmp_path / "theirs", "--to", "release")[0] == 0
    theirs = (tmp_path / "theirs/delta_mem_config.json").read_text()
    assert json.loads(theirs) == json.loads((case / "delta_mem_config.json").read_text())
    assert run("convert", case, tmp_path / "x", "--to", "gguf")[0] == 2
    code, _, error = run("convert", case, tmp_path / "theirs")
    assert (code, error) == (1, f"deltamem: {tmp_path / 'theirs'} is not empty; give another folder, or --force.\n")
    assert (tmp_path / "theirs/delta_mem_config.json").read_text() == theirs
    assert run("convert", case, tmp_path / "theirs", "--force")[0] == 0


def test_an_adapter_can_be_stored_in_half_the_bytes(run: Any, tmp_path: Path) -> None:
    deltamem.save_adapter(adapted(), tmp_path / "whole")
    code, _, error = run("convert", tmp_path / "whole", tmp_path / "half", "--dtype", "bfloat16")
    assert (code, error) == (0, "")
    whole, half = read_adapter(tmp_path / "whole"), read_adapter(tmp_path / "half")
    for name, tensor in whole.tensors.items():
        assert torch.equal(half.tensors[name], tensor.bfloat16().float())
    assert half.fingerprint != whole.fingerprint
    assert half.fingerprint in (tmp_path / "half" / "README.md").read_text()
    sizes = [(tmp_path / name / "adapter.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    code, _, error = run("convert", tmp_path / "whole", tmp_path / "x", "--to", "release", "--dtype", "bfloat16")
    assert code == 1
    assert "leave --dtype out" in error


def test_convert_says_what_the_releases_format_does_not_keep(run: Any, tmp_path: Path) -> None:
    deltamem.save_adapter(adapted(), tmp_path / "ours")
    code, out, _ = run("convert", tmp_path / "ours", tmp_path / "theirs", "--to", "release")
    assert code == 0
    assert "Not kept: segment_reads is 'closed' here, and the release's format gives 'call' back." in out
    assert "memories of this adapter are refused" in out
    assert run("convert", tmp_path / "theirs", tmp_path / "back")[0] == 0
    code, out, _ = run("convert", tmp_path / "back", tmp_path / "again", "--to", "release")
    assert "Not kept" not in out


def test_inspect_an_adapter(run: Any, files: Path) -> None:
    code, out, _ = run("inspect", files / "adapter", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["layers"], found["base_model"]) == ("adapter", [0, 1, 2], "owner/name")
    assert found["parameters"] == sum(
        p.numel() for m in deltamem.attached(adapted(states=2)).memories() for p in m.parameters()
    )
    assert found["state_bytes"] == 3 * 2 * 16 * 4
    assert found["config"]["states"] == 2
    assert found["norms"]["2"]["delta_o"] > 0
    assert found["shapes"]["layers.1.q_proj"] == [8, 32]
    code, out, _ = run("inspect", files / "adapter")
    assert code == 0
    assert all(word in out for word in ("owner/name", "rank", "delta_q", found["fingerprint"]))


def test_inspect_a_state(run: Any, files: Path) -> None:
    code, out, _ = run("inspect", files / "ravi.safetensors", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["layers"], found["rows"], found["bytes"]) == ("state", 3, 2, 3 * 2 * 2 * 16 * 4)
    assert found["tokens_written"] == [0, 0]
    state = live_state(adapted(states=2), 2)
    assert found["norms"][2][1][0] == pytest.approx(state.states[2][1, 0].norm().item())
    code, out, _ = run("inspect", files / "ravi.safetensors")
    assert code == 0
    assert "row 1, state 1" in out
    assert found["adapter_fingerprint"] in out


@pytest.mark.parametrize("name", ["adapter", "ravi.safetensors"])
def test_inspect_draws(run: Any, files: Path, name: str) -> None:
    code, out, _ = run("inspect", files / name, "--png", files / "picture.png")
    assert code == 0
    assert "Drew" in out
    assert (files / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_names_what_to_install(
    run: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("inspect", files / "adapter", "--png", files / "picture.png")
    assert code == 1
    assert err == f"deltamem: Plots need matplotlib: {how_to_install('demo')}\n"


def test_an_error_is_one_line_and_debug_tells_more(run: Any, files: Path) -> None:
    whole = (files / "ravi.safetensors").read_bytes()
    (files / "ravi.safetensors").write_bytes(whole[:-5])
    for arguments in (("inspect", files / "ravi.safetensors"), ("inspect", files / "none"), ("convert", files, files)):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("deltamem: ")
        assert "Traceback" not in err
    with pytest.raises(deltamem.StateFileError):
        main(["inspect", str(files / "ravi.safetensors"), "--debug"])
    with pytest.raises(FileNotFoundError):
        main(["--debug", "inspect", str(files / "none")])


@pytest.mark.parametrize("debug", [False, True])
def test_a_warning_is_one_line_and_debug_tells_its_place(debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", lambda *told: "with its place")
    with pytest.raises(SystemExit):
        main([*(["--debug"] if debug else []), "--version"])
    told = warnings.formatwarning("It is so.", UserWarning, "hub.py", 201)
    assert told == ("with its place" if debug else "Warning: It is so.\n")


def test_an_error_of_a_fresh_process_is_one_line_too(tmp_path: Path) -> None:
    """There the libraries are imported first, and might say things of their own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-m", "deltamem", "inspect", str(tmp_path / "none")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("deltamem: There is no ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command 'nope'. (deltamem --help)"),
        (["inspect"], "(deltamem inspect --help)"),
        (["inspect", "a", "--jsn"], "No such option: --jsn"),
        (["chat", "--window", "-1"], "Invalid value for '--window': "),
        (["convert", "a", "b", "--to", "x"], "Invalid value for '--to': 'x' is not one of 'deltamem', 'release'."),
        (["demo", "--ask", "--json"], "--json, --facts and --ask exclude one another; give one of them."),
        (["data", "chek"], "No such command 'chek'. Did you mean 'check'? (deltamem data --help)"),
    ],
)
def test_wrong_usage_is_one_line(run: Any, arguments: list[str], said: str) -> None:
    for debug in ([], ["--debug"]):
        code, out, err = run(*arguments, *debug)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("deltamem: ")
        assert said in err


def test_without_arguments_there_is_help(run: Any) -> None:
    for arguments in ([], ["data"]):
        code, out, err = run(*arguments)
        assert (code, err) == (2, "")
        assert "Usage: deltamem" in out


def test_help_is_set_for_the_terminal(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a paragraph end where the terminal does, not where those of its source do."""
    monkeypatch.setenv("COLUMNS", "200")
    assert "its backbone beside it (qwen3_mine uses backbone_qwen3; a" in run("parity", "--help")[1]
    assert "which stays as it is. The published trigger" in run("baseline", "memgen", "--help")[1]


def test_parity_prints_every_step(run: Any) -> None:
    code, out, err = run("parity", GOLDEN / "qwen3_tsw_qo", GOLDEN / "smollm3_tsw_qo", "--json")
    found = json.loads(out)
    assert (code, err, found["passed"]) == (0, "", True)
    assert list(found["cases"]) == ["qwen3_tsw_qo", "smollm3_tsw_qo"]
    for steps in found["cases"].values():
        assert len(steps) == 11
        assert all(0 < step["logits"] <= 1e-4 and 0 <= step["states"] <= 1e-4 for step in steps.values())
    code, out, err = run("parity", GOLDEN / "qwen3_tsw_qo")
    assert (code, err) == (0, "")
    assert "11 of 11 steps within 0.0001" in out


def test_parity_fails_and_still_runs_the_rest(run: Any, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "qwen3_tsw_qo", tmp_path / "qwen3_alone")
    code, out, err = run("parity", tmp_path, GOLDEN / "qwen3_no_qk_norm", "--json")
    found = json.loads(out)
    assert (code, found["passed"], list(found["cases"])) == (1, False, ["qwen3_no_qk_norm"])
    assert "backbone_qwen3" in found["errors"][str(tmp_path / "qwen3_alone")]
    assert err.count("\n") == 1
    shutil.copytree(GOLDEN / "backbone_qwen3", tmp_path / "backbone_qwen3")
    config = json.loads((tmp_path / "qwen3_alone/delta_mem_config.json").read_text())
    (tmp_path / "qwen3_alone/delta_mem_config.json").write_text(json.dumps({**config, "alpha": 15.0}))
    code, out, err = run("parity", tmp_path)
    assert (code, err) == (1, "")
    assert "FAILED" in out


def test_parity_passes_over_the_backbones_that_a_shell_pattern_matches(run: Any) -> None:
    code, out, err = run("parity", *sorted(GOLDEN.glob("*3_tsw_qo")), *GOLDEN.glob("backbone_*"), "--json")
    assert (code, err, len(json.loads(out)["cases"])) == (0, "", 2)
    code, out, err = run("parity", GOLDEN / "backbone_qwen3")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is not a parity case" in err


def test_doctor_says_which_kernel_and_why(run: Any) -> None:
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["versions"]["deltamem"] == deltamem.__version__
    assert found["kernels"]["cpu"].startswith("cpu: compiled loop (numba)")
    assert found["embedded assets"]
    assert run("doctor")[0] == 0


def test_every_option_may_be_an_environment_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DELTAMEM_DEMO_FACTS", "1")
    monkeypatch.setenv("DELTAMEM_VERSION", "1")  # of an image, say; no command is left for it
    with pytest.raises(SystemExit) as exit_:
        main(["demo"])
    assert exit_.value.code == 0
    assert '"tell"' in capsys.readouterr().out
    monkeypatch.setenv("DELTAMEM_SERVE_PORT", "70000")
    with pytest.raises(SystemExit) as exit_:
        main(["serve"])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "'--port'" in said
    assert "(set by DELTAMEM_SERVE_PORT; deltamem serve --help)" in said
