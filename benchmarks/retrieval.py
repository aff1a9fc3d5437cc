"""How much of the evidence BM25 and dense retrieval find on LoCoMo, by what a unit is and how many are brought back.

    deltamem pull smollm2
    python benchmarks/retrieval.py locomo10.json --json benchmarks/results/retrieval.json

A unit is a turn, or as many turns as there are within so many tokens (``--unit`` of ``deltamem eval``), counted by
SmolLM2's tokenizer; k units are brought back (``--turns``). Evidence are the turns that LoCoMo names for a question.
The share is over questions, with an interval by conversations; beside it the tokens that a prompt would show. No model
answers here, and only these figures are kept: the data's text may not be passed on.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import command_line, keep, machine
from deltamem.session.retrieval import best_matches
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Entry, Question, as_text
from deltamem_lab.loading import load_backbone
from deltamem_lab.methods import MethodOptions
from deltamem_lab.methods.retrieval import PASSAGE, Units
from deltamem_lab.methods.vectors import VectorStore, nearest
from deltamem_lab.statistics import rate_interval
from deltamem_lab.tasks.locomo import LoCoMo

UNITS = (0, 128, 512, 2048, 4096)
COUNTS = (1, 3, 5, 10, 25, 50)
# For each question the places of the best units, best first.
Ranked = Callable[[Sequence[str], Sequence[str]], list[list[int]]]


def bm25(texts: Sequence[str], asked: Sequence[str]) -> list[list[int]]:
    rows = best_matches(texts, asked, max(COUNTS))
    return [[place for place, score in sorted(row, key=lambda pair: -pair[1]) if score > 0] for row in rows]


def dense(texts: Sequence[str], asked: Sequence[str]) -> list[list[int]]:
    store = VectorStore()
    store.hold(texts)
    return [nearest(row, max(COUNTS)) for row in store.likeness(list(asked), list(texts))]


METHODS: dict[str, tuple[Ranked, int | None]] = {"bm25": (bm25, None), "dense": (dense, PASSAGE)}


def named_turns(data: Path) -> dict[str, dict[str, str]]:
    """The text of each turn by its name, by conversation."""
    found: dict[str, dict[str, str]] = {}
    for row in json.loads(data.read_text("utf-8")):
        turns = [turn for value in row["conversation"].values() if isinstance(value, list) for turn in value]
        found[row["sample_id"]] = {turn["dia_id"]: f'{turn["speaker"]} said, "{turn["text"]}"' for turn in turns}
    return found


def evidence(question: Question, turns: dict[str, str]) -> list[str]:
    """The texts of a question's evidence."""
    names = [name for one in question.extra["evidence"] for name in one.replace(";", " ").replace(",", " ").split()]
    return [turns[name] for name in names if name in turns]


def share(wanted: Sequence[str], shown: Sequence[Entry]) -> float:
    """How much of the evidence is shown; of a turn that was cut into pieces, one is enough."""
    texts = [str(getattr(entry, "text", "")).partition("\n and shared ")[0].strip() for entry in shown]
    return sum(any(text and text in turn for text in texts) for turn in wanted) / len(wanted)


def sweep(
    data: Path, backbone: Backbone, methods: Sequence[str], units: Sequence[int], conversations: int | None
) -> Iterator[list[dict[str, Any]]]:
    """A row for each k, of one method and unit after the other."""
    turns = named_turns(data)
    items = list(LoCoMo(data).items("official", conversations))
    for name in methods:
        ranked, characters = METHODS[name]
        for unit in units:
            options = MethodOptions(turns=max(COUNTS), unit=unit)
            make = Units(backbone, options) if characters is None else Units(backbone, options, characters)
            found: dict[int, list[tuple[str, float, int]]] = {count: [] for count in COUNTS}
            for item in items:
                parts = make(item.history)
                texts = ["\n".join(map(as_text, part)) for part in parts]
                sizes = [backbone.count(text) for text in texts]
                asked = [(q, wanted) for q in item.questions if (wanted := evidence(q, turns[item.id]))]
                for (_, wanted), places in zip(asked, ranked(texts, [q.text for q, _ in asked]), strict=True):
                    for count in COUNTS:
                        best = places[:count]
                        shown = [entry for place in best for entry in parts[place]]
                        found[count].append((item.id, share(wanted, shown), sum(sizes[place] for place in best)))
            rows: list[dict[str, Any]] = []
            for count, values in found.items():
                interval = rate_interval([one for _, one, _ in values], [item for item, _, _ in values])
                rows.append(
                    {
                        "method": name,
                        "unit": unit or "turn",
                        "k": count,
                        "evidence": {key: round(getattr(interval, key), 4) for key in ("value", "low", "high")},
                        "tokens": round(sum(tokens for _, _, tokens in values) / len(values)),
                        "questions": len(values),
                    }
                )
                print(
                    f"{name:6} unit {unit or 'turn':>5} k {count:3}  {interval.value:.3f}", file=sys.stderr, flush=True
                )
            yield rows


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("data", type=Path, help="locomo10.json")
    parser.add_argument("--model", default="smollm2", help="whose tokens count")
    parser.add_argument("--units", default=",".join(map(str, UNITS)), help="tokens of a unit, by commas; 0 for turns")
    parser.add_argument("--methods", default=",".join(METHODS), help="bm25, dense")
    parser.add_argument("--conversations", type=int, help="how many; all by default")
    options = parser.parse_args()
    backbone = load_backbone(options.model, weights=False)
    units = [int(unit) for unit in options.units.split(",")]
    rows = []
    for more in sweep(options.data, backbone, options.methods.split(","), units, options.conversations):
        rows += more
        keep({"machine": machine(), "rows": rows}, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
