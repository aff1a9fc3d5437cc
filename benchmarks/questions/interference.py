"""How many facts fit: recall against the number of facts told, and what more states or a larger rank buy.

    python benchmarks/questions/interference.py --json FILE.json --plot FILE.png --adapter rank16=runs/rank16

Every fact of every held-out dialogue is asked: of the package's adapters, of any further ones given by ``--adapter``,
of another dialogue's memory with each adapter, of BM25 and of the window. ``recalled`` is recall times facts: how many
facts of one dialogue come back. ``held`` is the largest of these, over the numbers of facts tried.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

from deltamem.demo.measure import ADAPTERS, Exam
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.show import load_demo
from deltamem.formats.adapter import AdapterFileError
from deltamem.formats.hub import load_adapter
from questions.common import STYLES, arguments, finish, legend_below, line, panels, parse, rate, share_axis, style
from questions.dialogues import many_facts

FACTS = (1, 2, 4, 8, 16, 24, 32, 48)
QUESTIONS, LEAST_DIALOGUES = 320, 10


def dialogues_of(facts: int, questions: int) -> int:
    """How many dialogues give about so many questions, and an interval at all."""
    return max(LEAST_DIALOGUES, round(questions / facts))


def graded(reader: Reader, adapters: Sequence[str], facts: int, count: int) -> dict[str, Any]:
    """Recall by method for ``count`` dialogues of ``facts`` facts."""
    rng = random.Random(f"interference/{facts}")
    dialogues = [many_facts(rng, facts) for _ in range(count)]
    asked = [Asked(row, q.ask, q.answer) for row, dialogue in enumerate(dialogues) for q in dialogue.questions]
    exam = Exam(reader, dialogues)
    right = exam.grade(asked)
    shuffled = {"multi": right.pop("shuffled")}
    for name in adapters:
        state = exam.states.get(name) or reader.remember(name, exam.histories)
        if name not in right:
            right[name] = reader.recall(name, state, asked)
        if name not in shuffled:
            others = state.select([(row + 1) % count for row in range(count)])
            shuffled[name] = reader.recall(name, others, asked)
    of = [each.row for each in asked]
    return {
        "recall": {name: rate(good, of) for name, good in right.items()},
        "other": {name: rate(good, of) for name, good in shuffled.items()},
    }


def measure(facts: Sequence[int], questions: int, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Recall by method and number of facts, and how many facts each adapter holds in how many bytes."""
    model, tokenizer = load_demo()
    for name, folder in folders.items():
        load_adapter(model, folder, name)
    reader, adapters = Reader(model, tokenizer), (*ADAPTERS, *folders)
    curves: dict[str, dict[str, dict[str, Any]]] = {"recall": {}, "other": {}}
    for number in facts:
        found = graded(reader, adapters, number, dialogues_of(number, questions))
        for kind, rates in found.items():
            for name, each in rates.items():
                curves[kind].setdefault(name, {})[str(number)] = each
        values = "  ".join(f"{name}: {each['value']:.3f}" for name, each in found["recall"].items())
        print(f"{number} facts  {values}", file=sys.stderr, flush=True)
    return {
        "facts": list(facts),
        **curves,
        "adapters": {
            name: {"bytes": reader.bytes_per_session(name), "held": round(held(curves["recall"][name]), 2)}
            for name in adapters
        },
    }


def held(curve: Mapping[str, Mapping[str, Any]]) -> float:
    """The most facts of one dialogue that come back, on average, whatever their number."""
    return max(int(facts) * each["value"] for facts, each in curve.items())


def draw(report: dict[str, Any]) -> Any:
    """Recall, facts recalled, and facts held by size."""
    figure, (recall, recalled, sizes) = panels(3, width=4.6)
    facts = report["facts"]
    further = [name for name in report["adapters"] if name not in STYLES]
    for name, curve in report["recall"].items():
        if name == "none":  # zero throughout
            continue
        look = style(name, further.index(name) if name in further else 0)
        line(recall, facts, list(curve.values()), look)
        if name in report["adapters"]:
            controls = [each["value"] for each in report["other"][name].values()]
            recall.plot(facts, controls, ":", color=look[1])
        scaled = [
            {"value": n * each["value"], "interval": [n * end for end in each["interval"]]}
            for n, each in zip(facts, curve.values(), strict=True)
        ]
        line(recalled, facts, scaled, look)
    recall.set_title("Recall (dotted: another dialogue's memory)")
    share_axis(recall)
    recalled.set_title("Facts that come back")
    recalled.set_ylabel("facts recalled of one dialogue")
    recalled.plot(facts, facts, color="#dddddd", linewidth=1, zorder=0)
    for axes in (recall, recalled):
        axes.set_xscale("log", base=2)
        axes.set_xticks(facts, [str(number) for number in facts])
        axes.set_xlabel("facts told in the dialogue")
    for name, each in report["adapters"].items():
        _, colour, _ = style(name, further.index(name) if name in further else 0)
        sizes.plot(each["bytes"], each["held"], "o", color=colour, alpha=0.8)
    sizes.set_title("Most facts that come back, by size")
    sizes.set_xscale("log", base=2)
    ticks = sorted({each["bytes"] for each in report["adapters"].values()})
    sizes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    sizes.set_xlabel("bytes of state a session")
    sizes.set_ylabel("facts")
    sizes.set_ylim(bottom=0)
    sizes.margins(x=0.2)
    legend_below(figure, recall, columns=4)
    return figure


def named_folder(given: str) -> tuple[str, Path]:
    """``NAME=FOLDER`` in two."""
    name, found, folder = given.partition("=")
    if not (name and found and folder):
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=FOLDER")
    if name in STYLES:
        raise argparse.ArgumentTypeError(f"the name {name!r} is taken; choose another")
    return name, Path(folder)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--facts", type=int, nargs="+", default=FACTS, help="numbers of facts, ascending")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="about so many for each number of facts")
    parser.add_argument(
        "--adapter", type=named_folder, action="append", default=[], metavar="NAME=FOLDER",
        help="a further adapter for the package's backbone; any number of times",
    )  # fmt: skip
    options = parse(parser)
    if min(options.facts) < 1 or options.questions < 1:
        parser.error("--facts and --questions start at 1")
    try:
        report = measure(sorted(set(options.facts)), options.questions, dict(options.adapter))
    except AdapterFileError as error:
        parser.error(str(error))
    finish(report, options, draw)


if __name__ == "__main__":
    main()
