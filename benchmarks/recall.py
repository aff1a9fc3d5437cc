"""Can a memory be read? How well confidence is calibrated, how often a memory invents, and whether it can forget.

    python benchmarks/recall.py --model embedded --adapter multi --json benchmarks/results/recall-embedded-multi.json \
        --plot docs/images/recall-embedded-multi.png --ship

Held-out dialogues are written to a memory, which is then asked for every fact in them (present) and for as many things
that were not told (absent). One half of the dialogues fits the calibration, the other half judges it. ``--ship`` puts
the calibration into the package, where ``Session.recall()`` finds it by the adapter's fingerprint.

The embedded backbone is asked in its toy world, other models in the told world of their training's held-out split.
"""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import deltamem
from common import command_line, machine, tell
from deltamem.chat import Message
from deltamem.chat.input import TextInput
from deltamem.demo import world
from deltamem.demo.real.answers import holds
from deltamem.figures import figure_class, write_png
from deltamem.rates import wilson
from deltamem.recall import Calibration, Evidence, Interview, WrittenTurn, recollect
from deltamem.session import Session
from deltamem.train.data.told import dialogues as told

BINS = 10
FACTS = (1, 2, 4, 6)


@dataclass(frozen=True)
class Asked:
    """A question: the value that answers it, empty where it was not told, and another question for the same."""

    question: str
    value: str
    again: str = ""


@dataclass(frozen=True)
class Told:
    """What is said, an exchange at a time, and what is asked."""

    exchanges: list[list[Message]]
    asked: list[Asked]


@dataclass(frozen=True)
class Answer:
    """What came of a question, with the place of its source and of the exchange that told it, -1 for none."""

    asked: Asked
    evidence: Evidence
    right: bool
    source: int = -1
    told: int = -1
    word: bool = False


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="embedded", help="a name, a folder or a Hub id")
    parser.add_argument("--adapter", default="multi", help="a name, a folder or a Hub id")
    parser.add_argument("--dialogues", type=int, default=160, help="half of them fit, half of them judge")
    parser.add_argument("--forget", type=int, default=40, help="dialogues in which a fact is forgotten")
    parser.add_argument("--split", default="known", help="of the told world: what is held out")
    parser.add_argument("--threshold", type=float, default=0.5, help="the least confidence of what is known")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the reliability plot to PATH")
    parser.add_argument("--ship", action="store_true", help="put the calibration into the package")
    options = parser.parse_args()

    model, tokenizer = deltamem.load_model(options.model, options.adapter)
    draw = toy if options.model == "embedded" else lambda rng: real(rng, options.split)
    rng = random.Random(f"recall/{options.seed}")
    began = time.monotonic()
    every = [draw(rng) for _ in range(options.dialogues)]
    half = len(every) // 2
    fitting = [answer for one in every[:half] for answer in examine(model, tokenizer, one)]
    calibration = Calibration.fit([a.evidence for a in fitting], [a.right for a in fitting])
    judged = [answer for one in every[half:] for answer in examine(model, tokenizer, one, calibration)]
    report: dict[str, Any] = {
        "machine": machine(),
        **{name: getattr(options, name) for name in ("model", "adapter", "dialogues", "threshold", "seed")},
        "split": "test" if options.model == "embedded" else options.split,
        "adapter_fingerprint": deltamem.adapter_fingerprint(model),
        "calibration": {
            name: getattr(calibration, name) for name in ("bias", "likely", "over_empty", "over_strangers")
        },
        "fitted_to": len(fitting),
        "calibrated": score(judged, calibration, options.threshold),
        "uncalibrated": score(judged, Calibration(), options.threshold),
        "sources": sources(judged),
        "forgetting": forgetting(model, tokenizer, [draw(rng) for _ in range(options.forget)], calibration),
    }
    report["seconds"] = round(time.monotonic() - began)
    if options.ship:
        ship(report)
    if options.plot:
        plot(report, options.plot)
    return tell(report, options)


def toy(rng: random.Random) -> Told:
    """A held-out dialogue of the toy world."""
    facts = rng.choice(FACTS)
    events, people = world.sample_events(
        rng, facts=facts, corrections=rng.randint(0, facts // 2), small_talk=rng.randint(0, 3), split="test"
    )
    current = world.current_facts(events)
    asked = []
    for fact in current:
        one, other = (world.question(rng, fact, people) for _ in range(2))
        asked.append(Asked(one.ask, fact.value, other.ask))
    asked += [Asked(world.unanswerable_question(rng, current, people, "test").ask, "") for _ in current]
    return Told([[message.to_dict() for message in event.messages] for event in events], asked)


def real(rng: random.Random, split: Any) -> Told:
    """A held-out dialogue of the told world, in which every message is answered."""
    mix = told.Mix(facts=(1, 6), unknown=1.0, corrected=0.2, together=0.0, answered=1.0, talk=0.5)
    dialogue = told.sample_dialogue(rng, mix, split)
    pairs = list(dialogue.messages)
    exchanges = [pairs[place : place + 2] for place in range(0, len(pairs), 2)]
    return Told(exchanges, [Asked(question.ask, question.value, question.ask) for question in dialogue.questions])


def session_of(model: Any, tokenizer: Any, exchanges: Sequence[list[Message]]) -> Session:
    session = Session(model, tokenizer, window=0, keep_messages=True)
    for exchange in exchanges:
        session.observe(exchange)
    return session


_INTERVIEWS: dict[int, Interview] = {}


def interview_of(model: Any, tokenizer: Any) -> Interview:
    return _INTERVIEWS.setdefault(id(model), Interview(model, tokenizer))


def examine(model: Any, tokenizer: Any, one: Told, calibration: Calibration | None = None) -> Iterator[Answer]:
    """Asks a memory of a dialogue; with a calibration it also looks where known answers came from."""
    interview, text, turns, state = interview_of(model, tokenizer), TextInput(model, tokenizer), [], None
    for exchange in one.exchanges:
        turns.append(WrittenTurn.of(text, exchange, state or deltamem.new_state(model)))
        state = text.write(exchange, state)
    questions = {str(number): asked.question for number, asked in enumerate(one.asked)}
    found = recollect(
        interview, calibration or Calibration(), questions, state, turns=turns if calibration else (), threshold=0.5
    )
    for asked, got in zip(one.asked, found, strict=True):
        right = bool(asked.value) and holds(got.answer, asked.value)
        where = [place for place, said in enumerate(one.exchanges) if holds(said[0]["content"], asked.value or "\0")]
        word = False
        if got.source is not None:
            tokens = [token for message in got.source.messages for token in message.tokens]
            best = max(tokens, key=lambda token: token[1])[0].strip()
            word = bool(best) and best in asked.value
        source = -1 if got.source is None else got.source.turn
        yield Answer(asked, got.evidence, right, source, where[-1] if where else -1, word)


def score(answers: Sequence[Answer], calibration: Calibration, threshold: float) -> dict[str, Any]:
    """Presence and absence apart, and how far confidences are from what came true."""
    confidences = [calibration.confidence(answer.evidence) for answer in answers]
    pairs = list(zip(answers, confidences, strict=True))
    present = [(a, c) for a, c in pairs if a.asked.value]
    absent = [(a, c) for a, c in pairs if not a.asked.value]
    known = [(a, c) for a, c in pairs if c >= threshold]
    return {
        "present": {
            "questions": len(present),
            "answered_right": rate([a.right for a, _ in present]),
            "known_and_right": rate([c >= threshold and a.right for a, c in present]),
            "known_and_wrong": rate([c >= threshold and not a.right for a, c in present]),
            "right_but_not_known": rate([c < threshold and a.right for a, c in present]),
        },
        "absent": {
            "questions": len(absent),
            "invented": rate([c >= threshold for _, c in absent]),
        },
        "at_threshold": [
            {
                "threshold": least,
                "known_and_right": rate([c >= least and a.right for a, c in present]),
                "invented": rate([c >= least for _, c in absent]),
            }
            for least in (0.5, 0.7, 0.8, 0.9, 0.95)
        ],
        "of_what_is_known_right": rate([a.right for a, _ in known]),
        "brier": sum((c - a.right) ** 2 for a, c in pairs) / len(pairs),
        "expected_calibration_error": sum(len(b) * abs(mean(b, 1) - mean(b, 0)) for b in bins(pairs)) / len(pairs),
        "auc": auc(pairs),
        "reliability": [
            {"questions": len(b), "confidence": mean(b, 1), "right": rate([a.right for a, _ in b])} for b in bins(pairs)
        ],
    }


def bins(pairs: Sequence[tuple[Answer, float]]) -> list[list[tuple[Answer, float]]]:
    """Those with anything in them of ten equally wide ones."""
    found: list[list[tuple[Answer, float]]] = [[] for _ in range(BINS)]
    for pair in pairs:
        found[min(BINS - 1, int(pair[1] * BINS))].append(pair)
    return [one for one in found if one]


def mean(pairs: Sequence[tuple[Answer, float]], which: int) -> float:
    return sum(float(pair[1] if which else pair[0].right) for pair in pairs) / len(pairs)


def auc(pairs: Sequence[tuple[Answer, float]]) -> float | None:
    """The probability that a right answer has more confidence than a wrong one."""
    right = [c for a, c in pairs if a.right]
    wrong = [c for a, c in pairs if not a.right]
    if not right or not wrong:
        return None
    return sum((r > w) + 0.5 * (r == w) for r in right for w in wrong) / (len(right) * len(wrong))


def rate(found: Sequence[bool]) -> dict[str, Any] | None:
    if not found:
        return None
    low, high = wilson(sum(found), len(found))
    return {"rate": sum(found) / len(found), "of": len(found), "low": low, "high": high}


def sources(answers: Sequence[Answer]) -> dict[str, Any]:
    """Of the right answers that are known: whether the source is the exchange that told them last, and its value."""
    found = [answer for answer in answers if answer.right and answer.source >= 0]
    return {
        "turn": rate([answer.source == answer.told for answer in found]),
        "value_has_the_largest_share": rate([answer.source == answer.told and answer.word for answer in found]),
    }


def forgetting(model: Any, tokenizer: Any, every: Sequence[Told], calibration: Calibration) -> dict[str, Any]:
    """One fact of each dialogue is forgotten that its memory gives: by replay, and by erasure without the text."""
    interview = interview_of(model, tokenizer)
    ways: dict[str, list[dict[str, float]]] = {"replay": [], "erasure": []}
    for one in every:
        session = session_of(model, tokenizer, one.exchanges)
        found = session.recall([asked.question for asked in one.asked], calibration=calibration, threshold=0)
        right = [a for a, got in zip(one.asked, found, strict=True) if a.value and holds(got.answer, a.value)]
        if not right:
            continue
        gone = right[0]
        (fact,) = session.recall([gone.question], calibration=calibration, threshold=0)
        for way, outcomes in ways.items():
            twin = session.fork()
            twin.keep_messages = way == "replay"
            twin.forget(fact)
            evidence = interview.ask(gone.question, twin.state)
            again = interview.ask(gone.again, twin.state)
            told_value = interview.weigh(gone.question, fact.answer, twin.state)
            others = [interview.ask(a.question, twin.state).answer for a in right[1:]]
            outcomes.append(
                {
                    "comes_out": holds(evidence.answer, gone.value),
                    "comes_out_asked_otherwise": holds(again.answer, gone.value),
                    "known": calibration.confidence(told_value) >= 0.5,
                    "evidence_before": fact.evidence.over_empty,
                    "evidence_after": told_value.over_empty,
                    "others": len(others),
                    "others_right": sum(holds(o, a.value) for o, a in zip(others, right[1:], strict=True)),
                }
            )
    return {way: summary(outcomes) for way, outcomes in ways.items()}


def summary(outcomes: Sequence[dict[str, float]]) -> dict[str, Any]:
    def average(name: str) -> float:
        return sum(one[name] for one in outcomes) / max(1, len(outcomes))

    others, right = (int(sum(one[name] for one in outcomes)) for name in ("others", "others_right"))
    return {
        **{
            name: rate([bool(one[name]) for one in outcomes])
            for name in ("comes_out", "comes_out_asked_otherwise", "known")
        },
        "evidence_before_nats": average("evidence_before"),
        "evidence_after_nats": average("evidence_after"),
        "other_facts_still_right": rate([place < right for place in range(others)]),
    }


def ship(report: dict[str, Any]) -> None:
    """Puts the calibration where the package finds it."""
    path = Path(str(files("deltamem.recall").joinpath("calibrations.json")))
    shipped = json.loads(path.read_text())
    shipped[report["adapter_fingerprint"]] = {
        "model": report["model"],
        "adapter": report["adapter"],
        "weights": report["calibration"],
    }
    path.write_text(json.dumps(shipped, indent=2) + "\n")


def plot(report: dict[str, Any], path: Path) -> None:
    """Reliability, and what became of questions about what was told and what was not."""
    figure = figure_class("demo")(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, colour in (("uncalibrated", "#c8a15a"), ("calibrated", "#2b6cb0")):
        found = report[name]["reliability"]
        x = [one["confidence"] for one in found]
        y = [one["right"]["rate"] for one in found]
        spread = [
            [rate - one["right"]["low"] for rate, one in zip(y, found, strict=True)],
            [one["right"]["high"] - rate for rate, one in zip(y, found, strict=True)],
        ]
        error = report[name]["expected_calibration_error"]
        left.errorbar(
            x, y, yerr=spread, color=colour, marker="o", markersize=4, linewidth=1, label=f"{name}, {error:.3f}"
        )
    left.set(xlabel="confidence", ylabel="answers that are right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.legend(title="expected calibration error", frameon=False, loc="upper left")
    present, absent = report["calibrated"]["present"], report["calibrated"]["absent"]
    bars = [
        ("told: known, right", present["known_and_right"], "#2b6cb0"),
        ("told: known, wrong", present["known_and_wrong"], "#c0504d"),
        ("told: right, not known", present["right_but_not_known"], "#9db8d2"),
        ("not told: invented", absent["invented"], "#c0504d"),
    ]
    for place, (_, found, colour) in enumerate(reversed(bars)):
        right.barh(place, found["rate"], color=colour)
        right.text(found["rate"] + 0.02, place, f"{found['rate']:.2f}", va="center")
    right.set_yticks(range(len(bars)), [name for name, *_ in reversed(bars)])
    right.set(xlim=(0, 1.12), xlabel=f"share of questions, threshold {report['threshold']}")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    asked = present["questions"] + absent["questions"]
    figure.suptitle(f"{report['model']}, adapter {report['adapter']}: {asked} held-out questions")
    write_png(figure, path)


if __name__ == "__main__":
    sys.exit(main())
