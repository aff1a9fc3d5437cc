"""Prompts, letters and scores of the ``release`` protocols, to the letter and the last bit."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import release_vectors

MADE = Path(__file__).parent / "release"
# How many rows of each file there are, so that none is left out in silence.
ROWS = {
    "locomo_prompts.jsonl": 46,
    "locomo_scores.jsonl": 162,
    "hotpotqa_prompts.jsonl": 3,
    "hotpotqa_scores.jsonl": 67,
    "mab_prompts.jsonl": 22,
    "mab_scores.jsonl": 72,
    "gpqa_prompts.jsonl": 6,
    "gpqa_letters.jsonl": 65,
}


def test_ours_agree_with_what_the_release_gives_for_made_up_inputs() -> None:
    compared = list(release_vectors.compare(MADE))
    assert [one for one in compared if one.recorded != one.ours] == []
    assert Counter(one.file for one in compared) == ROWS


@pytest.mark.skipif("DELTAMEM_RELEASE_VECTORS" not in os.environ, reason="needs recordings of data that is not ours")
def test_ours_agree_with_recordings_elsewhere() -> None:
    compared = list(release_vectors.compare(Path(os.environ["DELTAMEM_RELEASE_VECTORS"])))
    assert compared
    assert [one for one in compared if one.recorded != one.ours] == []


def test_the_command_counts_and_names_what_differs(tmp_path: Path) -> None:
    rows = [{"text": "B", "letter": "B"}, {"text": "B", "letter": "C"}]
    (tmp_path / "gpqa_letters.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    command = [sys.executable, release_vectors.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.split() == ["gpqa_letters.jsonl", "1", "of", "2"]
    assert "gpqa_letters.jsonl:2: C became B" in done.stderr


def test_rows_about_data_that_is_not_there_say_which(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa_prompts.jsonl").write_text('{"id": "1"}\n', "utf-8")
    with pytest.raises(ValueError, match=r"no hotpotqa\*\.jsonl.*--data"):
        list(release_vectors.compare(tmp_path))
