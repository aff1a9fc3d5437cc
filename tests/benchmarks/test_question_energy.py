"""The question about energy: the counters, their wrap-around, and a small run."""

import json
from pathlib import Path

import pytest

from questions import energy


@pytest.fixture
def counters(tmp_path: Path) -> Path:
    """A processor of two packages, the first about to wrap around, and a part of it that must not count twice."""
    for name, start in (("intel-rapl:0", 900), ("intel-rapl:1", 100), ("intel-rapl:0:0", 100)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("999\n")
        (folder / "energy_uj").write_text(f"{start}\n")
    return tmp_path


def test_joules_are_those_of_all_packages_across_the_counters_end(
    counters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_LEAST_SECONDS", 0.0)

    def turn() -> None:
        (counters / "intel-rapl:0" / "energy_uj").write_text("50\n")
        (counters / "intel-rapl:1" / "energy_uj").write_text("300\n")
        (counters / "intel-rapl:0:0" / "energy_uj").write_text("999\n")

    assert energy.Rapl(counters).joules(turn) == pytest.approx((150 + 200) / 1e6)


def test_without_counters_the_power_must_be_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(energy, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        energy.main([])
    assert f"there are no energy counters in {tmp_path}); give --watts" in capsys.readouterr().err


def test_a_memory_is_cheaper_from_the_length_after_which_it_always_is() -> None:
    cases = [
        {"history_tokens": n, "joules": {"memory": 2.0, "kept": k}} for n, k in ((1, 3.0), (2, 1.0), (4, 2.5), (8, 9.0))
    ]
    assert energy.crossing(cases, "kept") == 4
    assert energy.crossing(cases[:2], "kept") is None


def test_a_small_run_says_where_its_joules_come_from(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "energy.json"), "--plot", str(tmp_path / "energy.png")]
    assert energy.main(["--watts", "7", "--lengths", "500", "64", "--rounds", "1", *files]) == 0
    report = json.loads((tmp_path / "energy.json").read_text())
    assert "7 W, the stated power" in report["source"]
    assert [case["weights"] for case in report["cases"]] == ["embedded", "random weights"]
    assert all(joules > 0 for case in report["cases"] for joules in case["joules"].values())
    assert (tmp_path / "energy.png").read_bytes().startswith(b"\x89PNG")
