"""How long a fact lasts: recall of what was told at the beginning, against the tokens of other text read since.

    python benchmarks/questions/forgetting.py --json FILE.json --plot FILE.png

Dialogues of four held-out facts are written to memory, and then nothing but filler: small talk, or facts about people
whom the dialogue does not name. The text is written once; at every mark all four facts are asked. The control asks the
same questions of another row's memory, which has read as much. Farther marks have fewer rows. A curve ends where it is
no longer better than its control (a paired difference by dialogues), and two rows go on to the last mark for the norm
of their states alone.
"""

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

from deltamem.demo.measure import ADAPTERS
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import Dialogue, Utterance, chat, sample_dialogue
from deltamem.state import MemoryState
from deltamem_lab.statistics import paired_difference
from questions.common import arguments, finish, legend_below, line, panels, parse, rate, share_axis, style
from questions.dialogues import about_strangers

FACTS = 4
MARKS = (0, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
ROWS = (80, 80, 80, 80, 32, 16, 12)
DRIFT_ROWS = 2

Filler = Callable[[random.Random, Dialogue], list[Utterance]]


def small_talk(rng: random.Random, dialogue: Dialogue) -> list[Utterance]:
    """An exchange that says nothing about any attribute."""
    return chat(rng, 1)


def others_facts(rng: random.Random, dialogue: Dialogue) -> list[Utterance]:
    """A few facts about people who are not in the dialogue."""
    events, _ = about_strangers(rng, dialogue.people, facts=6)
    return [message for event in events for message in event.messages]


FILLERS: dict[str, Filler] = {"small talk": small_talk, "other people's facts": others_facts}


class Course:
    """What one adapter remembers of the beginning while its rows read on.

    Args:
        reader: reads and grades.
        adapter: the adapter's name.
        filler: what comes after the beginning.
        dialogues: the beginnings, one a row.
    """

    def __init__(self, reader: Reader, adapter: str, filler: str, dialogues: Sequence[Dialogue]) -> None:
        self.reader, self.adapter = reader, adapter
        self.filler, self.dialogues = FILLERS[filler], dialogues
        # A row reads the same text with every adapter, whatever the number of rows.
        self.rngs = [random.Random(f"forgetting/{filler}/{row}") for row in range(len(dialogues))]
        self.since = [0] * len(dialogues)
        self.state = reader.remember(adapter, [dialogue.messages for dialogue in dialogues])

    def read_on(self, mark: int, rows: int) -> None:
        """Has the first ``rows`` rows read filler until it is ``mark`` tokens long; the others are dropped."""
        news: list[list[Utterance]] = [[] for _ in range(rows)]
        for row, new in enumerate(news):
            while self.since[row] < mark:
                said = self.filler(self.rngs[row], self.dialogues[row])
                self.since[row] += self.reader.length(said)
                new += said
        self.state = self.reader.remember(self.adapter, news, self.state.select(range(rows)))

    def ask(self) -> dict[str, Any]:
        """Recall from a row's own memory and from another row's, and whether the own is better."""
        rows = self.state.batch
        others: MemoryState = self.state.select([(row + 1) % rows for row in range(rows)])
        asked = [
            Asked(row, question.ask, question.answer)
            for row, dialogue in enumerate(self.dialogues[:rows])
            for question in dialogue.questions
        ]
        own, other = (self.reader.recall(self.adapter, state, asked) for state in (self.state, others))
        of = [question.row for question in asked]
        verdict = paired_difference(own, other, [str(row) for row in of]).verdict
        return {"tokens": self._tokens(), "own": rate(own, of), "other": rate(other, of), "verdict": verdict}

    def norms(self) -> dict[str, Any]:
        """The Frobenius norm of the state matrices: their mean and the largest."""
        norms = self.state.norms()
        return {"tokens": self._tokens(), "mean": round(norms.mean().item(), 3), "most": round(norms.max().item(), 3)}

    def _tokens(self) -> int:
        return round(sum(self.since[: self.state.batch]) / self.state.batch)


def follow(course: Course, marks: Sequence[int], rows: Sequence[int]) -> dict[str, Any]:
    """Recall while it is better than the control, and norms at every mark."""
    recall: list[dict[str, Any]] = []
    norms: list[dict[str, Any]] = []
    lost = False
    for mark, wanted in zip(marks, rows, strict=True):
        course.read_on(mark, min(DRIFT_ROWS, wanted) if lost else wanted)
        norms.append(course.norms())
        if not lost:
            recall.append(course.ask())
            lost = recall[-1]["verdict"] != "better"
    return {"recall": recall, "norms": norms}


def measure(marks: Sequence[int], rows: Sequence[int]) -> dict[str, Any]:
    """The course of every adapter with every filler."""
    reader = Reader(*load_demo())
    rng = random.Random("forgetting")
    dialogues = [sample_dialogue(rng, facts=FACTS, split="test") for _ in range(rows[0])]
    courses: dict[str, dict[str, Any]] = {}
    for filler in FILLERS:
        courses[filler] = {}
        for adapter in ADAPTERS:
            courses[filler][adapter] = found = follow(Course(reader, adapter, filler, dialogues), marks, rows)
            shown = "  ".join(f"{point['tokens']}: {point['own']['value']:.3f}" for point in found["recall"])
            print(f"{filler}, {adapter}  {shown}", file=sys.stderr, flush=True)
    return {"facts": FACTS, "marks": list(marks), "rows": list(rows), "courses": courses}


def draw(report: dict[str, Any]) -> Any:
    """Recall with each filler, and the norms."""
    figure, (*recalls, norms) = panels(3, width=4.4)
    for axes, (filler, courses), dash in zip(recalls, report["courses"].items(), ("-", "--"), strict=True):
        axes.set_title(f"{FACTS} facts, then {filler}")
        share_axis(axes)
        for adapter, course in courses.items():
            label, colour, _ = style(adapter)
            tokens = [point["tokens"] for point in course["recall"]]
            line(axes, tokens, [point["own"] for point in course["recall"]], (label, colour, "-"))
            controls = [point["other"]["value"] for point in course["recall"]]
            axes.plot(tokens, controls, ":", color=colour, label="another row's memory" if adapter == "multi" else None)
            drift = course["norms"]
            norms.plot([p["tokens"] for p in drift], [p["mean"] for p in drift], dash, color=colour)
    norms.set_title("Mean norm of a state\n(dashed: other people's facts)")
    norms.set_ylabel("Frobenius norm")
    norms.set_ylim(bottom=0)
    for axes in (*recalls, norms):
        axes.set_xscale("symlog", linthresh=300)
        axes.set_xlim(-20, 1.2 * report["marks"][-1])
        axes.set_xticks(report["marks"], [f"{mark:,}" for mark in report["marks"]], rotation=40, fontsize=8)
        axes.set_xlabel("tokens read since")
    legend_below(figure, recalls[0], columns=4)
    return figure


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--marks", type=int, nargs="+", default=MARKS, help="tokens read since, ascending")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="dialogues at each mark, never more later")
    options = parse(parser)
    marks, rows = list(options.marks), list(options.rows)
    if len(marks) != len(rows) or marks != sorted(marks) or rows != sorted(rows, reverse=True) or rows[-1] < 2:
        parser.error("--rows needs a number for each of --marks; marks ascend, rows do not, and two rows are the least")
    finish(measure(marks, rows), options, draw)


if __name__ == "__main__":
    main()
