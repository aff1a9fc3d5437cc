"""Commands in processes of their own: side by side, with their share of the threads, and told apart."""

import json
from collections.abc import Iterator

import pytest
import torch

from deltamem_lab.commands.evaluation.preparing import at_once, run_commands


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_commands_share_the_threads(capfd: pytest.CaptureFixture[str]) -> None:
    doctor = ["deltamem", "doctor", "--json"]
    assert run_commands({"one": doctor, "other": doctor}) == {"one": 0, "other": 0}
    said = capfd.readouterr()
    assert said.out == ""
    for name in ("one", "other"):
        lines = [line.removeprefix(f"{name}: ") for line in said.err.splitlines() if line.startswith(f"{name}: ")]
        told = "\n".join(lines)
        assert json.loads(told[told.index("{") :])["machine"]["torch threads"] == 1


@pytest.mark.usefixtures("two_threads")
def test_one_that_fails_does_not_end_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {
        "wrong": ["deltamem", "no-such-command"],
        "right": ["deltamem", "--version"],
        "wrong too": ["deltamem", "baseline"],
    }
    assert run_commands(commands) == {"wrong": 2, "right": 0, "wrong too": 2}
    assert "wrong too: " in capfd.readouterr().err


@pytest.mark.usefixtures("two_threads")
def test_there_are_no_more_at_a_time_than_threads() -> None:
    assert [at_once(count) for count in (0, 1, 2, 5)] == [1, 1, 2, 2]
