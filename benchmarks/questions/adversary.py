"""What is left of the facts after noise, repetition, an order to forget, and planted false facts.

    python benchmarks/questions/adversary.py --json FILE.json --plot FILE.png

Held-out dialogues of four facts go on with one of five attacks in growing doses, and are asked at each. ``noise``:
messages of 32 random tokens. ``repetition``: one exchange of small talk, again and again. ``order``: "Forget
everything I told you." ``user`` and ``assistant``: two of the four facts are told with another value, by the user or in
the assistant's words; their answers are true, false or neither, and the other two facts are untouched.

The same text is read by the memories, by the bare backbone in its window of the last 512 tokens, and by BM25. The world
has no statements in the second person, so the assistant says the sentence that the user would.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

from deltamem.demo.lexicon import lexicon
from deltamem.demo.measure import ADAPTERS
from deltamem.demo.reader import ASSISTANT, Asked, Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import USER, Dialogue, Fact, Utterance, chat, sample_dialogue
from deltamem.state import MemoryState
from questions.common import arguments, finish, legend_below, line, panels, parse, rate, share_axis, style
from questions.dialogues import contradiction, read_retrieved

FACTS, LIES = 4, 2
DIALOGUES = 96
NOISE_TOKENS = 32
ORDER = "Forget everything I told you."
DOSES: dict[str, tuple[int, ...]] = {
    "noise": (0, 1, 4, 16),
    "repetition": (0, 1, 4, 16, 64),
    "order": (0, 1, 4, 16),
    "user": (0, 1, 2, 4, 16),
    "assistant": (0, 1, 2, 4, 16),
}
PLANTED = ("user", "assistant")
TITLES = {
    "noise": (f"Random tokens, {NOISE_TOKENS} a message", "messages"),
    "repetition": ("The same small talk again and again", "times"),
    "order": (f'"{ORDER}"', "times said"),
    "user": ("The user tells something else", "times told"),
    "assistant": ("The assistant says something else", "times said"),
}


@dataclass(frozen=True)
class Victim:
    """A dialogue, the false facts by the place of the question they answer, and the small talk that is repeated."""

    dialogue: Dialogue
    lies: dict[int, Fact]
    idle: tuple[Utterance, ...]


Dose = Callable[[random.Random, Victim], list[Utterance]]


def doses(tokenizer: Any) -> dict[str, Dose]:
    """What each attack says in one dose."""
    special = set(tokenizer.all_special_ids)
    tokens = [token for token in range(len(tokenizer)) if token not in special]

    def answered(said: str, reply: str) -> list[Utterance]:
        return [Utterance(USER, said), Utterance(ASSISTANT, reply)]

    def noise(rng: random.Random, victim: Victim) -> list[Utterance]:
        return answered(tokenizer.decode(rng.sample(tokens, NOISE_TOKENS)), rng.choice(lexicon().acks))

    def repetition(rng: random.Random, victim: Victim) -> list[Utterance]:
        return list(victim.idle)

    def order(rng: random.Random, victim: Victim) -> list[Utterance]:
        return answered(ORDER, rng.choice(lexicon().acks))

    def user(rng: random.Random, victim: Victim) -> list[Utterance]:
        told = [answered(lie.tell, rng.choice(lexicon().acks)) for lie in victim.lies.values()]
        return [message for exchange in told for message in exchange]

    def assistant(rng: random.Random, victim: Victim) -> list[Utterance]:
        told = [answered(chat(rng, 1)[0].text, lie.tell) for lie in victim.lies.values()]
        return [message for exchange in told for message in exchange]

    return {"noise": noise, "repetition": repetition, "order": order, "user": user, "assistant": assistant}


def sample_victim(rng: random.Random) -> Victim:
    dialogue = sample_dialogue(rng, facts=FACTS, split="test")
    places = sorted(rng.sample(range(FACTS), LIES))
    lies = {place: contradiction(rng, dialogue.facts[place]) for place in places}
    return Victim(dialogue, lies, tuple(chat(rng, 1)))


class Scene:
    """Victims under one attack: what every memory holds of them, and their whole text.

    Args:
        reader: reads and grades.
        attack: the attack's name.
        dose: what one dose of it says.
        victims: one a row.
        states: the memories of their dialogues, by adapter.
    """

    def __init__(
        self, reader: Reader, attack: str, dose: Dose, victims: Sequence[Victim], states: dict[str, MemoryState]
    ) -> None:
        self.reader, self.dose, self.victims = reader, dose, victims
        self.planted = attack in PLANTED
        self.states = dict(states)
        self.texts = [list(victim.dialogue.messages) for victim in victims]
        self.rngs = [random.Random(f"adversary/{attack}/{row}") for row in range(len(victims))]

    def suffer(self, times: int) -> None:
        """So many doses more."""
        news: list[list[Utterance]] = []
        for rng, victim in zip(self.rngs, self.victims, strict=True):
            news.append([message for _ in range(times) for message in self.dose(rng, victim)])
        self.states = {name: self.reader.remember(name, news, state) for name, state in self.states.items()}
        self.texts = [text + new for text, new in zip(self.texts, news, strict=True)]

    def ask(self) -> dict[str, dict[str, Any]]:
        """Shares by method: ``true`` of the attacked facts (of all, if none is), ``false``, and ``untouched``."""
        attacked, untouched, false = [], [], []
        for row, victim in enumerate(self.victims):
            for place, question in enumerate(victim.dialogue.questions):
                lie = victim.lies.get(place) if self.planted else None
                asked = Asked(row, question.ask, question.answer)
                (untouched if self.planted and not lie else attacked).append(asked)
                if lie:
                    false.append(Asked(row, question.ask, f"{lie.value}."))
        together = [*attacked, *false, *untouched]
        right = {name: self.reader.recall(name, state, together) for name, state in self.states.items()}
        right["full"] = self.reader.read(None, self.texts, together)
        right["bm25"] = read_retrieved(self.reader, self.texts, together)
        kinds = {"true": attacked, "false": false, "untouched": untouched}
        found: dict[str, dict[str, Any]] = {}
        for name, good in right.items():
            rest = iter(good)
            found[name] = {
                kind: rate([next(rest) for _ in asked], [each.row for each in asked])
                for kind, asked in kinds.items()
                if asked
            }
        return found


def measure(dialogues: int, most: int) -> dict[str, Any]:
    """Every attack, in every dose up to ``most``."""
    model, tokenizer = load_demo()
    reader = Reader(model, tokenizer)
    rng = random.Random("adversary")
    victims = [sample_victim(rng) for _ in range(dialogues)]
    states = {name: reader.remember(name, [victim.dialogue.messages for victim in victims]) for name in ADAPTERS}
    attacks: dict[str, list[dict[str, Any]]] = {}
    for attack, dose in doses(tokenizer).items():
        scene, given = Scene(reader, attack, dose, victims, states), 0
        attacks[attack] = []
        for times in (times for times in DOSES[attack] if times <= most):
            scene.suffer(times - given)
            given = times
            tokens = round(sum(map(reader.length, scene.texts)) / dialogues)
            attacks[attack].append({"dose": times, "text_tokens": tokens, "answers": scene.ask()})
            shown = attacks[attack][-1]["answers"].items()
            kinds = "  ".join(
                f"{name}: " + "/".join(f"{r['value']:.3f}" for r in each.values()) for name, each in shown
            )
            print(f"{attack} x{times}  {kinds}", file=sys.stderr, flush=True)
    return {"facts": FACTS, "dialogues": dialogues, "attacks": attacks}


def draw(report: dict[str, Any]) -> Any:
    """A panel for each attack, and one for the facts that nobody contradicted."""
    figure, axes = panels(6, columns=3, height=3.3, width=4.2)
    for each, (attack, points) in zip(axes, report["attacks"].items(), strict=False):
        title, unit = TITLES[attack]
        _curves(each, points, "true")
        if attack in PLANTED:
            _curves(each, points, "false")
        each.set_title(title + (": true —, false ···" if attack in PLANTED else ""), fontsize=10)
        each.set_xlabel(unit)
    _curves(axes[-1], report["attacks"]["user"], "untouched")
    axes[-1].set_title("The facts that the user left alone", fontsize=10)
    axes[-1].set_xlabel(TITLES["user"][1])
    legend_below(figure, axes[0], columns=5)
    return figure


def _curves(axes: Any, points: Sequence[dict[str, Any]], kind: str) -> None:
    share_axis(axes, "answers")
    places = range(len(points))
    for method in points[0]["answers"]:
        label, colour, _ = style(method)
        line(
            axes, places, [p["answers"][method][kind] for p in points], (label, colour, ":" if kind == "false" else "-")
        )
    axes.set_xticks(places, [str(point["dose"]) for point in points])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dialogues", type=int, default=DIALOGUES)
    parser.add_argument("--most", type=int, default=max(map(max, DOSES.values())), help="the largest dose")
    options = parse(parser)
    if options.dialogues < 1 or options.most < 1:
        parser.error("--dialogues and --most start at 1")
    finish(measure(options.dialogues, options.most), options, draw)


if __name__ == "__main__":
    main()
