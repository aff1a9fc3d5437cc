"""Episodes in MemoryAgentBench's form with examples to learn: texts of BANKING77 with made-up numbers as labels.

    python benchmarks/labels.py banking77_train.csv banking77_test.csv --output labels.jsonl
    deltamem eval --task memoryagentbench --data labels.jsonl --protocol official ...

Each episode draws some of the 77 intents and numbers them anew, so no number is known beforehand and another episode's
memory is of no use. The examples come from the training file and the questions from the test file.
"""

import argparse
import csv
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from deltamem.files import write_atomically

Intents = dict[str, list[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="CSV with the columns text and category")
    parser.add_argument("test", type=Path, help="the same, for the questions")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=25)
    parser.add_argument("--labels", type=int, default=8, help="intents of an episode")
    parser.add_argument("--shots", type=int, default=4, help="examples of each intent")
    parser.add_argument("--questions", type=int, default=4, help="questions of an episode")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    train, test = intents(options.train), intents(options.test)
    shape = (options.labels, options.shots, options.questions)
    rows = list(episodes(train, test, options.episodes, shape, random.Random(options.seed)))
    write_atomically(options.output, "".join(json.dumps(row) + "\n" for row in rows).encode())
    print(f"{options.output}: {len(rows)} episodes, {sum(len(row['questions']) for row in rows)} questions")
    return 0


def intents(path: Path) -> Intents:
    """The texts of each intent."""
    found: Intents = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["category"]].append(" ".join(row["text"].split()))
    return found


def episodes(
    train: Intents, test: Intents, count: int, shape: tuple[int, int, int], random: random.Random
) -> Iterator[dict[str, object]]:
    """Rows as MemoryAgentBench has them, each of so many labels, examples of a label, and questions."""
    labels, shots, questions = shape
    names = sorted(train.keys() & test.keys())
    for _ in range(count):
        chosen = random.sample(names, labels)
        examples = [(text, number) for number, name in enumerate(chosen) for text in random.sample(train[name], shots)]
        random.shuffle(examples)
        asked = [(random.choice(test[chosen[number]]), number) for number in random.sample(range(labels), questions)]
        yield {
            "context": "\n\n".join(f"{text}\nlabel: {number}" for text, number in examples),
            "questions": [text for text, _ in asked],
            "answers": [[str(number)] for _, number in asked],
            "split": "Test_Time_Learning",
            "metadata": {"source": "icl_banking77"},
        }


if __name__ == "__main__":
    sys.exit(main())
