"""Trained on one kind of dialogue, tested on another: on kinds the package's adapters never saw, and on unseen facts.

    deltamem train recipes/embedded-half.yaml
    python benchmarks/questions/transfer.py --half runs/embedded-half \
        --json benchmarks/results/questions/transfer.json --plot docs/images/questions/transfer.png

The adapters were trained on facts that a user tells one a message, on corrections, and on some small talk. Here the
same held-out dialogues of four facts are told in other ways. ``full`` is the bare backbone with the text in its window:
where that fails too, it is not the memory that does not transfer.

``--half`` is an adapter that was trained on half of the kinds of facts (birthday, not hobby): what it recalls of these
and of the others, beside the package's adapter that saw all. The recipe in the folder says which half.
"""

import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

import deltamem
from deltamem.demo.lexicon import lexicon, sentence
from deltamem.demo.measure import ADAPTERS, all_asked
from deltamem.demo.reader import ASSISTANT, Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import USER, Dialogue, Fact, Question, Utterance, chat, sample_dialogue
from deltamem.train.checkpoints import RECIPE_FILE
from deltamem.train.recipefile import load_recipe
from questions.common import arguments, finish, legend_below, line, panels, parse, rate, share_axis, style

FACTS, HALF_FACTS = 4, (1, 2, 4, 8)
HALF = "half_trained"
FRAMES = (
    "You should know that {t}",
    "As I told you before, {t}",
    "It may help you that {t}",
    "My friends know: {t}",
)
ASKING = ("Can you tell me: {q}", "I forgot. {q}", "One question: {q}", "Please answer this: {q}")
_SWAPPED = {"i am": "you are", "i was": "you were", "i": "you", "me": "you", "my": "your", "you": "I"}
_PERSON = re.compile(r"\b(I am|I was|I|me|my|you)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """A kind of dialogue.

    Attributes:
        label: what it is called.
        seen: whether the adapters were trained on it.
        tell: gives a dialogue.
    """

    label: str
    seen: bool
    tell: Callable[[random.Random], Dialogue]


def plain(rng: random.Random) -> Dialogue:
    return sample_dialogue(rng, facts=FACTS, split="test")


def known_words(rng: random.Random) -> Dialogue:
    return sample_dialogue(rng, facts=FACTS, split="train")


def corrected(rng: random.Random) -> Dialogue:
    """Two of the facts are corrected, and only these are asked about."""
    dialogue = sample_dialogue(rng, facts=FACTS, corrections=2, split="test")
    return _with(dialogue, dialogue.messages, [q for q in dialogue.questions if q.fact and q.fact.replaces])


def long_after(rng: random.Random) -> Dialogue:
    """Three times as much small talk follows as in training."""
    dialogue = plain(rng)
    return _with(dialogue, (*dialogue.messages, *chat(rng, 40)), dialogue.questions)


def by_assistant(rng: random.Random) -> Dialogue:
    """The assistant says what it knows of the user."""
    dialogue = plain(rng)
    told = [(Utterance(USER, "Tell me what you know."), Utterance(ASSISTANT, to_you(f.tell))) for f in dialogue.facts]
    return _with(dialogue, [message for exchange in told for message in exchange], dialogue.questions)


def one_text(rng: random.Random) -> Dialogue:
    """All facts in one message."""
    dialogue = plain(rng)
    text = " ".join(fact.tell for fact in dialogue.facts)
    return _with(
        dialogue, [Utterance(USER, text), Utterance(ASSISTANT, rng.choice(lexicon().acks))], dialogue.questions
    )


def framed(rng: random.Random) -> Dialogue:
    """Every fact within a phrase that no training dialogue has."""
    dialogue = plain(rng)
    told = {fact.tell: sentence(rng.choice(FRAMES).format(t=_lower(fact))) for fact in dialogue.facts}
    messages = [Utterance(message.role, told.get(message.text, message.text)) for message in dialogue.messages]
    return _with(dialogue, messages, dialogue.questions)


def asked_otherwise(rng: random.Random) -> Dialogue:
    """Every question within a phrase that no training question has."""
    dialogue = plain(rng)
    asked = [Question(rng.choice(ASKING).format(q=q.ask), q.answer, q.fact) for q in dialogue.questions]
    return _with(dialogue, dialogue.messages, asked)


KINDS = {
    "known_words": Kind("as trained", True, known_words),
    "corrected": Kind("corrected facts", True, corrected),
    "plain": Kind("names and wordings\nkept out of training", False, plain),
    "long_after": Kind("40 exchanges later", False, long_after),
    "asked_otherwise": Kind("asked otherwise", False, asked_otherwise),
    "framed": Kind("told within\na new phrase", False, framed),
    "one_text": Kind("all in one message", False, one_text),
    "by_assistant": Kind("told by the assistant", False, by_assistant),
}


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--half", type=Path, metavar="FOLDER", help="a run of recipes/embedded-half.yaml")
    parser.add_argument("--dialogues", type=int, default=60, help="of each kind")
    options = parse(parser, given)
    if options.half and not (options.half / RECIPE_FILE).exists():
        parser.error(f"--half {options.half}: no run is there; make one by deltamem train recipes/embedded-half.yaml")
    model, tokenizer = load_demo()
    reader = Reader(model, tokenizer)
    report: dict[str, Any] = {
        "dialogues": options.dialogues,
        "kinds": {name: measure_kind(reader, name, options.dialogues) for name in KINDS},
        "half": measure_half(reader, options.half, options.dialogues) if options.half else None,
    }
    for name, kind in report["kinds"].items():
        print(f"{name:16}", *(f"{method} {each['value']:.3f}" for method, each in kind.items()), file=sys.stderr)
    for name, curve in (report["half"] or {}).get("recall", {}).items():
        print(f"{name:16}", *(f"{facts}: {each['value']:.3f}" for facts, each in curve.items()), file=sys.stderr)
    finish(report, options, draw)
    return 0


def measure_kind(reader: Reader, name: str, count: int) -> dict[str, Any]:
    """Recall of one kind by every method."""
    rng = random.Random(f"transfer/{name}")
    dialogues = [KINDS[name].tell(rng) for _ in range(count)]
    histories, asked = [dialogue.messages for dialogue in dialogues], all_asked(dialogues)
    states = {adapter: reader.remember(adapter, histories) for adapter in ADAPTERS}
    others = states["multi"].select([(row + 1) % count for row in range(count)])
    right = {
        "full": reader.read(None, histories, asked),
        **{adapter: reader.recall(adapter, state, asked) for adapter, state in states.items()},
        "shuffled": reader.recall("multi", others, asked),
    }
    return {method: rate(graded, [question.row for question in asked]) for method, graded in right.items()}


def measure_half(reader: Reader, folder: Path, count: int) -> dict[str, Any]:
    """Recall of the kinds of facts that an adapter was trained on and of the others, and the same of ``multi``."""
    recipe = load_recipe(folder / RECIPE_FILE)
    seen = set(recipe.data.options["attributes"])  # type: ignore[union-attr]
    deltamem.load_adapter(reader.model, folder, HALF)
    halves = {"seen": sorted(seen), "unseen": sorted(set(lexicon().attributes) - seen)}
    recall: dict[str, dict[str, Any]] = {f"{name}/{half}": {} for name in (HALF, "multi") for half in halves}
    for half, attributes in halves.items():
        for facts in HALF_FACTS:
            rng = random.Random(f"transfer/{half}/{facts}")
            dialogues = [
                sample_dialogue(rng, facts=facts, split="test", attributes=attributes)
                for _ in range(max(1, count * FACTS // facts))
            ]
            asked = all_asked(dialogues)
            for name in (HALF, "multi"):
                state = reader.remember(name, [dialogue.messages for dialogue in dialogues])
                right = reader.recall(name, state, asked)
                recall[f"{name}/{half}"][str(facts)] = rate(right, [question.row for question in asked])
    return {"attributes": halves, "steps": recipe.schedule.steps, "recall": recall}


def to_you(text: str) -> str:
    """A sentence of the user's as somebody else would say it to them."""
    return sentence(_PERSON.sub(lambda found: _SWAPPED[found[0].lower()], text))


def _lower(fact: Fact) -> str:
    """How the fact was told, without a capital where that is not part of the word."""
    kept = fact.tell.startswith(("I ", fact.subject))
    return fact.tell if kept else fact.tell[:1].lower() + fact.tell[1:]


def _with(dialogue: Dialogue, messages: Sequence[Utterance], questions: Sequence[Question]) -> Dialogue:
    return Dialogue(tuple(messages), dialogue.facts, tuple(questions), dialogue.people)


def draw(report: dict[str, Any]) -> Any:
    """Recall by kind and method; and of both halves by number of facts, where there is such an adapter."""
    figure, axes = panels(2 if report["half"] else 1, width=7.5, height=4.8)
    left = axes[0]
    kinds = list(report["kinds"])
    methods = list(report["kinds"][kinds[0]])
    for place, method in enumerate(methods):
        label, colour, _ = style(method)
        rates = [report["kinds"][kind][method] for kind in kinds]
        low, high = zip(*(each["interval"] for each in rates), strict=True)
        x = [number + (place - len(methods) / 2) * 0.13 for number in range(len(kinds))]
        left.vlines(x, low, high, color=colour, linewidth=1.5)
        left.plot(x, [each["value"] for each in rates], "o", color=colour, label=label, markersize=5)
    left.set_xticks(range(len(kinds)), [KINDS[kind].label for kind in kinds], rotation=35, ha="right", fontsize=8)
    left.axvline(sum(KINDS[kind].seen for kind in kinds) - 0.5, color="#999999", linewidth=0.8)
    left.set_title("left of the line: kinds of dialogues seen in training", fontsize=9)
    share_axis(left)
    if report["half"]:
        recall = report["half"]["recall"]
        places = list(range(len(HALF_FACTS)))
        for name, (label, colour) in {
            HALF: ("trained on half of the kinds of facts", "#D55E00"),
            "multi": ("memory, four states: trained on all", style("multi")[1]),
        }.items():
            for half, dash in (("seen", "-"), ("unseen", "--")):
                look = (f"{label}; asked of {'that' if half == 'seen' else 'the other'} half", colour, dash)
                line(axes[1], places, list(recall[f"{name}/{half}"].values()), look)
        axes[1].set_xticks(places, [str(facts) for facts in HALF_FACTS])
        axes[1].set_xlabel("facts told in the dialogue")
        share_axis(axes[1])
        axes[1].legend(frameon=False, fontsize=8, loc="lower left")
    legend_below(figure, left, columns=3 if report["half"] else 2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
