"""Small episodes in MemoryAgentBench's own row format: labels learned from examples, and facts that change.

The rows can be saved and evaluated like the benchmark's, which are far too long for a small backbone.
"""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem.files import write_atomically
from deltamem_lab.tasks.rows import BadDataError

_PEOPLE = ("Ada", "Bruno", "Chen", "Dalia", "Emre", "Freya", "Goran", "Hana", "Ines", "Jonas", "Kofi", "Lucia")
_FACTS = {
    "{} lives in the city of {}.": (
        "In which city does {} live?",
        ("Lisbon", "Oslo", "Quito", "Kyoto", "Dakar", "Perth", "Turin", "Halifax"),
    ),
    "{} plays the {}.": (
        "Which instrument does {} play?",
        ("cello", "flute", "banjo", "oboe", "harp", "trumpet", "viola", "drums"),
    ),
    "{} works as a {}.": (
        "What does {} work as?",
        ("baker", "pilot", "nurse", "tailor", "plumber", "judge", "florist", "welder"),
    ),
}


@dataclass(frozen=True)
class LabelOptions:
    """The size of label episodes.

    Attributes:
        labels: how many labels an episode has; they are numbered anew in each.
        shots: examples a label.
        questions: how many further examples are asked.
        episodes: how many rows to make.
        seed: another seed, other rows.
    """

    labels: int = 5
    shots: int = 4
    questions: int = 10
    episodes: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "shots", "questions", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")


def label_episodes(name: str, examples: Mapping[str, Sequence[str]], options: LabelOptions) -> list[dict[str, Any]]:
    """Rows of test-time learning: examples with numbers for labels, then new examples to give a number to.

    Labels become numbers at random in every row, so that their meaning can only be learned from its context.

    Args:
        name: of the data, such as ``banking77``.
        examples: the utterances of each label.
        options: how large.

    Raises:
        ValueError: there are too few labels, or too few with enough examples.
    """
    spare = -(-options.questions // options.labels)
    rich = sorted(label for label, said in examples.items() if len(set(said)) >= options.shots + spare)
    if len(rich) < options.labels:
        raise ValueError(
            f"{len(rich)} labels of {name} have {options.shots + spare} examples or more; {options.labels} are needed."
        )
    rows = []
    for number in range(options.episodes):
        rng = random.Random(f"{name} {options.seed}/{number}")
        chosen = rng.sample(rich, options.labels)
        drawn = [rng.sample(sorted(set(examples[label])), options.shots + spare) for label in chosen]
        shown = [(said, label) for label, texts in enumerate(drawn) for said in texts[: options.shots]]
        asked = [(said, label) for label, texts in enumerate(drawn) for said in texts[options.shots :]]
        rng.shuffle(shown)
        rng.shuffle(asked)
        context = "\n\n".join(f"{said}\nlabel: {label}" for said, label in shown)
        source = f"icl_{name}_{len(shown)}shot_balance"
        rows.append(_row("Test_Time_Learning", source, number, context, asked[: options.questions]))
    return rows


def conflict_episodes(*, facts: int = 8, changes: int = 4, episodes: int = 20, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of conflict resolution: numbered facts of which some change later, and a question for each.

    Of two facts about the same, the one with the larger number holds.

    Raises:
        ValueError: there are more changes than facts, or more facts than can be made.
    """
    keys = [(person, pattern) for person in _PEOPLE for pattern in _FACTS]
    if not 0 <= changes <= facts or not 1 <= facts <= len(keys) or episodes < 1:
        raise ValueError(f"Cannot make {episodes} episodes of {facts} facts (at most {len(keys)}), {changes} changed.")
    rows = []
    for number in range(episodes):
        rng = random.Random(f"conflicts {seed}/{number}")
        told = rng.sample(keys, facts)
        said: list[str] = []
        holds: dict[tuple[str, str], str] = {}
        for key in [*told, *rng.sample(told, changes)]:
            values = [value for value in _FACTS[key[1]][1] if value != holds.get(key)]
            holds[key] = rng.choice(values)
            said.append(key[1].format(key[0], holds[key]))
        lines = [f"{serial}. {fact}" for serial, fact in enumerate(said)]
        context = "Here is a list of facts:\n" + "\n".join(lines)
        asked = [(_FACTS[pattern][0].format(person), holds[person, pattern]) for person, pattern in told]
        rows.append(_row("Conflict_Resolution", f"factconsolidation_sh_{len(said)}facts", number, context, asked))
    return rows


def banking77(path: Path) -> dict[str, list[str]]:
    """The utterances of each label in BANKING77's CSV file, whose columns are ``text`` and ``category``.

    Raises:
        BadDataError: the file cannot be read; the message names the line.
    """
    examples: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                if not row.get("text") or not row.get("category"):
                    raise BadDataError(f"{path}:{reader.line_num}: a row needs 'text' and 'category'.")
                examples.setdefault(row["category"], []).append(row["text"].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(f"{path}: cannot be read ({error}).") from None
    return examples


def clinc150(path: Path, split: str = "train") -> dict[str, list[str]]:
    """The utterances of each intent in CLINC150's JSON file, out-of-scope ones not among them.

    Raises:
        BadDataError: the file cannot be read; the message names the row.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))[split]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"{path} is not the file of CLINC150 with a list {split!r}: {error}.") from None
    examples: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
            raise BadDataError(f"{path}, {split} row {number}: must be an utterance and its intent.")
        examples.setdefault(row[1], []).append(row[0])
    return examples


def save_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes rows as JSON lines, which ``MemoryAgentBench`` reads."""
    write_atomically(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())


def _row(split: str, source: str, number: int, context: str, asked: Sequence[tuple[str, int | str]]) -> dict[str, Any]:
    return {
        "split": split,
        "context": context,
        "questions": [question for question, _ in asked],
        "answers": [[str(answer)] for _, answer in asked],
        "metadata": {"source": source, "qa_pair_ids": [f"{source}_{number}_no{i}" for i in range(len(asked))]},
    }
