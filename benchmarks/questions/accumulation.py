"""Update or accumulation: the delta rule against plain sums, with learned gates and with fixed ones.

    python benchmarks/questions/accumulation.py --json benchmarks/results/questions/accumulation.json \
        --plot docs/images/questions/accumulation.png

The delta rule first takes away what an address holds; a sum does not. Both are trained alike, by the recipe at the
centre of ``recipes/sweep.yaml``: as points of that sweep, in its folder. So what ``deltamem sweep`` has trained already
is not trained again, and the same command goes on where it was stopped. Each adapter is asked about held-out dialogues:
all facts of 1 to 8, and of four facts the two that were corrected, for the new value and for the old one.
"""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

import deltamem
from deltamem.demo.backbone import load_backbone
from deltamem.demo.measure import all_asked
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.world import Dialogue, sample_dialogue
from deltamem.train.recipefile import RecipeError
from deltamem_lab.sweep.plan import Sweep, load_sweep
from deltamem_lab.sweep.running import finished, run_sweep
from questions.common import MORE_COLOURS, arguments, finish, legend_below, line, panels, parse, rate, share_axis

FACTS = (1, 2, 4, 8)
CORRECTED_FACTS, CORRECTIONS = 4, 2
SWEEP = Path(__file__).parents[2] / "recipes" / "sweep.yaml"
# Where an adapter is on the sweep's axes, and what it is called here. The first five are points of the sweep itself.
RULES: dict[tuple[str, str], str] = {
    ("adapter.update_rule", "no_lambda"): "delta rule",
    ("adapter.update_rule", "standard"): "delta rule that fades",
    ("adapter.update_rule", "hebbian"): "sum that fades",
    ("adapter.update_rule", "accumulate"): "sum",
    ("adapter.gates", "fixed"): "delta rule, fixed gates",
    ("fixed", "hebbian"): "sum that fades, fixed gates",
    ("fixed", "accumulate"): "sum, fixed gates",
    ("fixed", "low no_lambda"): "delta rule, gates fixed low",
    ("fixed", "low hebbian"): "sum that fades, gates fixed low",
}
LOW = -4.5
_NAME = "measured"
_COLOURS = ("#0072B2", "#009E73", "#E69F00", *MORE_COLOURS)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="a sweep's file, for its centre, seeds and folder")
    parser.add_argument("--questions", type=int, default=240, help="about so many for each number of facts")
    parser.add_argument("change", nargs="*", metavar="key=value", help="changes of the sweep, as for deltamem sweep")
    options = parse(parser, given)
    try:
        sweep = load_sweep(options.sweep, [*options.change, f"sweep.axes={json.dumps(axes())}"])
    except RecipeError as error:
        parser.error(str(error))
    if stopped := run_sweep(sweep):
        return 128 + stopped
    report = measure(sweep, options.questions)
    for label, found in report["rules"].items():
        recall = " ".join(f"{facts}: {each['value']:.3f}" for facts, each in found["recall"].items())
        corrected = " ".join(f"{which} {each['value']:.3f}" for which, each in found["corrected"].items())
        print(f"{label:34} {recall}   corrected: {corrected}", file=sys.stderr)
    finish(report, options, draw)
    return 0


def axes() -> dict[str, list[Any]]:
    """The axes on which the rules are, each with its values."""
    found: dict[str, list[Any]] = {}
    for axis, label in RULES:
        value: Any = label
        if axis == "fixed":
            value = {"label": label, "adapter.gates": "fixed", "adapter.update_rule": label.split()[-1]}
            value |= {"adapter.gate_bias": LOW} if label.startswith("low ") else {}
        found.setdefault(axis, []).append(value)
    return found


def measure(sweep: Sweep, questions: int) -> dict[str, Any]:
    """Recall and corrections of every rule; answers of several seeds count together."""
    reader = Reader(*load_backbone())
    exams = {str(facts): held_out(facts, 0, questions // facts) for facts in FACTS}
    corrected = held_out(CORRECTED_FACTS, CORRECTIONS, questions // CORRECTIONS)
    points = {(place.axis, place.label): point for point in sweep.points for place in point.places}
    rules: dict[str, Any] = {}
    for place, label in RULES.items():
        point = points[place]
        folders = [Path(recipe.output.folder) for each, _, recipe in sweep.runs() if each is point and finished(recipe)]
        if not folders:
            print(f"{label}: not trained; see {sweep.folder / point.name}", file=sys.stderr)
            continue
        rules[label] = {
            "seeds": len(folders),
            "steps": point.recipe.schedule.steps,
            "recall": {n: graded(reader, folders, exam, all_asked(exam)) for n, exam in exams.items()},
            "corrected": {
                which: graded(reader, folders, corrected, replaced(corrected, old=which == "old"))
                for which in ("new", "old")
            },
        }
    if not rules:
        raise SystemExit(f"No adapter could be trained; the folders in {sweep.folder} have the reasons.")
    return {"facts": list(FACTS), "rules": rules}


def held_out(facts: int, corrections: int, count: int) -> list[Dialogue]:
    """Dialogues of the held-out split."""
    rng = random.Random(f"accumulation/{facts}/{corrections}")
    return [sample_dialogue(rng, facts=facts, corrections=corrections, split="test") for _ in range(count)]


def replaced(dialogues: Sequence[Dialogue], *, old: bool) -> list[Asked]:
    """Questions about the corrected facts, for the value before or after."""
    return [
        Asked(row, q.ask, f"{q.fact.replaces if old else q.fact.value}.")
        for row, dialogue in enumerate(dialogues)
        for q in dialogue.questions
        if q.fact and q.fact.replaces
    ]


def graded(
    reader: Reader, folders: Sequence[Path], dialogues: Sequence[Dialogue], asked: list[Asked]
) -> dict[str, Any]:
    """The rate over all adapters in ``folders``, and that of each."""
    right = []
    for folder in folders:
        deltamem.load_adapter(reader.model, folder, _NAME)
        state = reader.remember(_NAME, [dialogue.messages for dialogue in dialogues])
        right.append(reader.recall(_NAME, state, asked))
        deltamem.attached(reader.model).remove(_NAME)
    rows = [question.row for question in asked]
    return rate([good for each in right for good in each], rows * len(folders)) | {
        "by_seed": [round(sum(each) / len(each), 4) for each in right]
    }


def draw(report: dict[str, Any]) -> Any:
    """Recall by number of facts, and what is answered after a correction."""
    figure, (left, right) = panels(2, height=4.6)
    places = list(range(len(report["facts"])))
    labels = list(report["rules"])
    for label, colour in zip(labels, _COLOURS, strict=False):
        dash = "--" if "fixed" in label else "-"
        line(left, places, list(report["rules"][label]["recall"].values()), (label, colour, dash))
    left.set_xticks(places, [str(facts) for facts in report["facts"]])
    left.set_xlabel("facts told in the dialogue")
    share_axis(left)
    for number, (which, colour) in enumerate((("new", "#0072B2"), ("old", "#D55E00"))):
        rates = [report["rules"][label]["corrected"][which] for label in labels]
        low, high = zip(*(each["interval"] for each in rates), strict=True)
        x = [place + (number - 0.5) * 0.38 for place in range(len(labels))]
        right.bar(x, [each["value"] for each in rates], width=0.36, color=colour, label=f"the {which} value")
        right.vlines(x, low, high, color="black", linewidth=1)
    right.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    share_axis(right, "answers about corrected facts")
    right.legend(frameon=False, fontsize=8)
    legend_below(figure, left, columns=4)
    return figure


if __name__ == "__main__":
    sys.exit(main())
