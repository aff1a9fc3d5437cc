"""How many recorded prompts, letters and scores of the published evaluation code ours agrees with.

    python benchmarks/release_vectors.py FOLDER [--data FOLDER]

FOLDER has files of what the release's own functions gave: ``locomo_prompts.jsonl``, ``locomo_scores.jsonl``,
``hotpotqa_prompts.jsonl``, ``hotpotqa_scores.jsonl``, ``mab_prompts.jsonl``, ``mab_scores.jsonl``,
``gpqa_prompts.jsonl`` and ``gpqa_letters.jsonl``; ``tests/benchmarks/release`` is such a folder. Files that are
missing are left out. Prompts are compared by their SHA-256, scores to the last bit. The rows of LoCoMo and HotpotQA
name questions of data that is not ours to publish; ``--data`` is the folder that has it as ``locomo*.json`` and
``hotpotqa*.jsonl`` (by default FOLDER itself, else ``data`` beside it). Exits 1 where anything differs.
"""

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deltamem_lab.interface import Budget, Item, Question
from deltamem_lab.metrics.memoryagentbench import mab_scores_as_released
from deltamem_lab.tasks.gpqa import GPQA, chosen_letter
from deltamem_lab.tasks.hotpotqa import HotpotQA, hotpotqa_scores_as_released
from deltamem_lab.tasks.locomo import LoCoMo
from deltamem_lab.tasks.memoryagentbench import MemoryAgentBench

RELEASE = "release"
_RESERVED = 50
_BOOK = " ".join(
    f"Chapter {i}. On day {i} the traveller {i * 7 % 101} met {i * 13 % 89} and said nothing." for i in range(4000)
)
# Contexts too long for a file, by the name of their case.
_MADE = {
    "facts long": "Here is a list of facts:\n"
    + "\n".join(f"{i}. The capital of land {i % 97} is town {i}." for i in range(20_000)),
    "book with blanks around": f"\n{_BOOK[:150_000]}\n\n ",
    "just over": f"Chat Time: 2023/05/20\n{_BOOK[:119_990]}" + "tail " * 20,
}


class Words:
    """A tokenizer whose tokens are what stands between white space."""

    model_max_length = 10**9

    def encode(self, text: str, add_special_tokens: bool = True) -> list[str]:
        """The words."""
        return text.split()

    def decode(self, tokens: list[str], skip_special_tokens: bool = False) -> str:
        """The words with a blank between."""
        return " ".join(tokens)


@dataclass(frozen=True)
class Compared:
    """A recorded row and what ours gives for it.

    Attributes:
        file: where the row is.
        number: its place there, from 1.
        recorded: what the release gave.
        ours: what ours gives.
    """

    file: str
    number: int
    recorded: Any
    ours: Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="has locomo*.json and hotpotqa*.jsonl")
    arguments = parser.parse_args()
    rows, agreed = Counter[str](), Counter[str]()
    for one in compare(arguments.folder, arguments.data):
        rows[one.file] += 1
        agreed[one.file] += one.recorded == one.ours
        if one.recorded != one.ours:
            print(f"{one.file}:{one.number}: {one.recorded} became {one.ours}", file=sys.stderr)
    for file, number in rows.items():
        print(f"{file:24}{agreed[file]:6,} of {number:,}")
    if not rows:
        parser.error(f"{arguments.folder} has none of the files.")
    return int(agreed != rows)


def compare(folder: Path, data: Path | None = None) -> Iterator[Compared]:
    """Every recorded row beside ours.

    Args:
        folder: of the rows.
        data: the folder with the data of LoCoMo and HotpotQA.

    Raises:
        ValueError: rows are about data that is not there.
    """
    for file, check in _CHECKS.items():
        if not (folder / file).exists():
            continue
        lines = (folder / file).read_text("utf-8").splitlines()
        for number, row in enumerate(map(json.loads, lines), start=1):
            recorded, ours = check(row, data or folder)
            yield Compared(file, number, recorded, ours)


def _locomo_prompt(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    task, questions = _locomo(_data(folder, "locomo*.json"))
    item, question = questions[row["sample_id"], row["question_index"]]
    words = row["max_context_words"]
    budget = Budget(None, len) if words is None else Budget(words - _RESERVED, lambda _: 0, Words())
    system, user = task.prompt(item, question, item.history, RELEASE, budget)
    ours = [_hash(system["content"]), _hash(user["content"]), len(user["content"])]
    recorded = [row["system_sha256"], row["user_sha256"], row["user_chars"]]
    if "options" in row:
        recorded += [row["options"]["a"], row["options"]["b"]]
        ours += [_hash(option) for option in question.options]
    return recorded, ours


def _locomo_score(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    task, questions = _locomo(_data(folder, "locomo*.json"))
    item, question = questions[row["sample_id"], row["question_index"]]
    return row["score"], task.score(item, question, row["output"], RELEASE)["f1"]


def _hotpotqa_prompt(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    task, items = _hotpotqa(_data(folder, "hotpotqa*.jsonl"))
    item = items[row["id"]]
    (message,) = task.prompt(item, item.questions[0], item.history, RELEASE, Budget(None, len))
    return [row["prompt_sha256"], row["chars"]], [_hash(message["content"]), len(message["content"])]


def _hotpotqa_score(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    ours = hotpotqa_scores_as_released(row["prediction"], row["gold"])
    return [row["em"], row["f1"]], [ours["em"], ours["f1"]]


def _mab_prompt(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    context = row["context"] if row["context"] is not None else _MADE[row["case"]]
    about = {"source": "ruler_qa1", "qa_pair_ids": None}
    line = {"split": "Accurate_Retrieval", "context": context, "questions": [row["question"]], "answers": [["x"]]}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "mab.jsonl")
        path.write_text(json.dumps({**line, "metadata": about}), "utf-8")
        task = MemoryAgentBench(path)
    (item,) = task.items(RELEASE)
    words = row.get("max_context_words")
    budget = Budget(None, len) if words is None else Budget(words, _words, Words())
    (message,) = task.prompt(item, item.questions[0], item.history, RELEASE, budget)
    recorded = [row["context_sha256"], row["prompt_sha256"], row["chars"]]
    return recorded, [_hash(context), _hash(message["content"]), len(message["content"])]


def _mab_score(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    ours = mab_scores_as_released("ruler_qa1", row["prediction"], row["answers"])
    return [row["right"], row["alias_max_f1"]], [ours["score"], ours["f1"]]


def _gpqa_prompt(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "gpqa.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(row["row"]))
            writer.writeheader()
            writer.writerow(row["row"])
        task = GPQA(path)
    (item,) = task.items(RELEASE)
    (message,) = task.prompt(item, item.questions[0], (), RELEASE, Budget(None, len))
    return [row["prompt"], row["answer"]], [message["content"], item.questions[0].answers[0]]


def _gpqa_letter(row: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    return row["letter"], chosen_letter(row["text"])


_CHECKS = {
    "locomo_prompts.jsonl": _locomo_prompt,
    "locomo_scores.jsonl": _locomo_score,
    "hotpotqa_prompts.jsonl": _hotpotqa_prompt,
    "hotpotqa_scores.jsonl": _hotpotqa_score,
    "mab_prompts.jsonl": _mab_prompt,
    "mab_scores.jsonl": _mab_score,
    "gpqa_prompts.jsonl": _gpqa_prompt,
    "gpqa_letters.jsonl": _gpqa_letter,
}


@cache
def _locomo(path: Path) -> tuple[LoCoMo, dict[tuple[str, int], tuple[Item, Question]]]:
    task = LoCoMo(path, categories=(1, 2, 3, 4, 5))
    found = {(item.id, number): (item, q) for item in task.items(RELEASE) for number, q in enumerate(item.questions)}
    return task, found


@cache
def _hotpotqa(path: Path) -> tuple[HotpotQA, dict[str, Item]]:
    task = HotpotQA(path)
    return task, {item.id: item for item in task.items(RELEASE)}


@cache
def _data(folder: Path, pattern: str) -> Path:
    places = (folder, folder.parent / "data")
    found = [path for place in places for path in sorted(place.glob(pattern)) if not path.stem.endswith(_OURS)]
    if not found:
        raise ValueError(f"There is no {pattern} in {' or '.join(map(str, places))}; name its folder with --data.")
    return found[0]


_OURS = ("_prompts", "_scores")


def _words(messages: Any) -> int:
    return sum(len(message["content"].split()) for message in messages)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
