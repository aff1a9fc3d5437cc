"""What someone who holds a state can learn of what was said, with the embedded backbone and its adapters.

    python benchmarks/leak.py --json benchmarks/results/leak.json

Two readers get the states of held-out dialogues, never their text. One has the model and asks: "Where do I live?".
The other has only the numbers of the state, and the states of other dialogues of which it knows what was said; it
fits a linear probe (ridge regression, its penalty chosen on dialogues held back from the training) from the state to
the value. Both are asked for the user's city and the user's secret word, after dialogues of so many facts; chance is
one over the number of values. A last probe tells from the state which lines of small talk were said at all, which
nobody ever asks about: 0.5 is chance, 1 is certainty (area under the ROC curve, mean over the lines).

    python benchmarks/leak.py --forgotten 100 --json benchmarks/results/leak-forgotten.json

What is still there of the user's city when it was forgotten, after dialogues of four facts: by replay of the dialogue
without the turns that say it, by a correction, which tells another city, or by erasure, which moves the memory until
the answer is gone. The same two readers look for it. A third probe is fitted to memories of other dialogues that forgot
their city in the same way.
"""

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common import command_line, machine, tell
from deltamem.demo.lexicon import Split, lexicon
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import USER, Dialogue, Fact, Question, Utterance, sample_dialogue
from deltamem.recall import Interview
from deltamem.state import MemoryState

ATTRIBUTES = ("city", "codeword")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ROWS = 100


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--adapters", nargs="+", default=["token", "multi"])
    parser.add_argument("--facts", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--train", type=int, default=1500, help="dialogues that a probe is fitted to")
    parser.add_argument("--test", type=int, default=300, help="dialogues that are read")
    parser.add_argument("--forgotten", type=int, metavar="DIALOGUES", help="only what is left of what was forgotten")
    options = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = load_demo()
    reader = Reader(model, tokenizer)
    if options.forgotten:
        left = read_forgotten(reader, Interview(model, tokenizer), options.train, options.forgotten)
        return tell(left | {"machine": machine()}, options)
    report: dict[str, Any] = {
        "machine": machine(),
        "train": options.train,
        "test": options.test,
        "values": [],
        "small_talk": [],
    }
    for adapter in options.adapters:
        for attribute in ATTRIBUTES:
            for facts in options.facts:
                case = read_values(reader, adapter, attribute, facts, options.train, options.test)
                report["values"].append(case)
                print(case, file=sys.stderr)
        report["small_talk"].append(read_small_talk(reader, adapter, options.train, options.test))
        print(report["small_talk"][-1], file=sys.stderr)
    return tell(report, options)


def read_values(reader: Reader, adapter: str, attribute: str, facts: int, train: int, test: int) -> dict[str, Any]:
    """How often the user's value of an attribute is found by asking, and by a probe."""
    values = lexicon().attributes[attribute].values
    rng = random.Random(f"leak/{attribute}/{facts}")
    known = [about(rng, attribute, facts, "train") for _ in range(train)]
    secret = [about(rng, attribute, facts, "test") for _ in range(test)]
    inputs, targets = states(reader, adapter, known), one_hot(known, attribute, values)
    unseen, wanted = states(reader, adapter, secret), one_hot(secret, attribute, values)
    guessed = fit(inputs, targets)(unseen)
    shuffled = fit(inputs, targets[torch.randperm(train, generator=torch.Generator().manual_seed(0))])(unseen)
    return {
        "adapter": adapter,
        "attribute": attribute,
        "facts": facts,
        "numbers": inputs.shape[1],
        "asked_percent": percent(torch.tensor(ask(reader, adapter, secret, attribute))),
        "probe_percent": percent(guessed.argmax(1) == wanted.argmax(1)),
        "probe_shuffled_percent": percent(shuffled.argmax(1) == wanted.argmax(1)),
        "chance_percent": round(100 / len(values), 1),
    }


def read_forgotten(reader: Reader, interview: Interview, train: int, test: int) -> dict[str, Any]:
    """How often the user's city is found by asking and by probes, before it was forgotten and after."""
    adapter, attribute, facts = "multi", "city", 4
    values = lexicon().attributes[attribute].values
    rng = random.Random("leak/forgotten")
    known = [about(rng, attribute, facts, "train") for _ in range(train)]
    secret = [about(rng, attribute, facts, "test") for _ in range(test)]
    wanted = one_hot(secret, attribute, values).argmax(1)
    probe = fit(states(reader, adapter, known), one_hot(known, attribute, values))
    others = known[: 4 * test]
    ways: dict[str, Callable[[Sequence[Dialogue]], MemoryState]] = {
        "before": lambda some: reader.remember(adapter, [dialogue.messages for dialogue in some]),
        "replay": lambda some: reader.remember(adapter, [without(dialogue, attribute) for dialogue in some]),
        "correction": lambda some: reader.remember(adapter, [moved(rng, dialogue, values) for dialogue in some]),
        "erasure": lambda some: erased(reader, interview, adapter, some, attribute),
    }
    questions = [question_of(dialogue, attribute) for dialogue in secret]
    asked = [Asked(row, question.ask, question.answer) for row, question in enumerate(questions)]
    left: dict[str, dict[str, float]] = {}
    for way, forget in ways.items():
        state = forget(secret)
        warned = fit(flat(forget(others)), one_hot(others, attribute, values))
        left[way] = {
            "asked_percent": percent(torch.tensor(reader.recall(adapter, state, asked))),
            "probe_percent": percent(probe(flat(state)).argmax(1) == wanted),
            "probe_of_the_same_percent": percent(warned(flat(state)).argmax(1) == wanted),
        }
        print(way, left[way], file=sys.stderr)
    return {
        "adapter": adapter,
        "attribute": attribute,
        "facts": facts,
        "train": train,
        "train_of_the_same": len(others),
        "test": test,
        "chance_percent": round(100 / len(values), 1),
        "ways": left,
    }


def erased(
    reader: Reader, interview: Interview, adapter: str, dialogues: Sequence[Dialogue], attribute: str
) -> MemoryState:
    """Memories of dialogues from which the answer about an attribute was erased, as without kept text."""
    found = []
    for dialogue in dialogues:
        question = question_of(dialogue, attribute)
        found.append(interview.erase(question.ask, question.answer, reader.remember(adapter, [dialogue.messages])))
    return MemoryState.stack(found)


def without(dialogue: Dialogue, attribute: str) -> list[Utterance]:
    """A dialogue without the exchanges that say the value, as forgetting leaves them out."""
    value = fact_of(dialogue, attribute).value
    exchanges: list[list[Utterance]] = []
    for message in dialogue.messages:
        if message.role == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
    return [message for said in exchanges if not any(value in one.text for one in said) for message in said]


def moved(rng: random.Random, dialogue: Dialogue, cities: Sequence[str]) -> list[Utterance]:
    """A dialogue at whose end the user lives in another city."""
    city = rng.choice([city for city in cities if city != fact_of(dialogue, "city").value])
    said = Utterance("user", f"Actually, I live in {city} now."), Utterance("assistant", "Noted.")
    return [*dialogue.messages, *said]


def question_of(dialogue: Dialogue, attribute: str) -> Question:
    return next(question for question in dialogue.questions if question.fact is fact_of(dialogue, attribute))


def read_small_talk(reader: Reader, adapter: str, train: int, test: int) -> dict[str, Any]:
    """How well a probe tells which lines of small talk were among eight, beside four facts."""
    rng = random.Random("leak/small talk")
    pool = [sample_dialogue(rng, facts=4, small_talk=8, split="train") for _ in range(train)]
    secret = [sample_dialogue(rng, facts=4, small_talk=8, split="test") for _ in range(test)]
    lines = [reply for _, reply in lexicon().small_talk if "{" not in reply]
    lines = [line for line in lines if lines.count(line) == 1]
    said, wanted = presence(pool, lines), presence(secret, lines)
    scores = fit(states(reader, adapter, pool), said)(states(reader, adapter, secret))
    curves = [area(scores[:, i], wanted[:, i] > 0) for i in range(len(lines)) if 0 < wanted[:, i].sum() < test]
    return {"adapter": adapter, "lines": len(curves), "mean_area_under_curve": round(sum(curves) / len(curves), 3)}


def about(rng: random.Random, attribute: str, facts: int, split: Split) -> Dialogue:
    """A dialogue in which the user tells, among other facts, one about the attribute."""
    while True:
        dialogue = sample_dialogue(rng, facts=facts, split=split)
        if any(fact.subject == USER and fact.attribute == attribute for fact in dialogue.facts):
            return dialogue


def fact_of(dialogue: Dialogue, attribute: str) -> Fact:
    return next(fact for fact in dialogue.facts if fact.subject == USER and fact.attribute == attribute)


def ask(reader: Reader, adapter: str, dialogues: Sequence[Dialogue], attribute: str) -> list[bool]:
    """Which states give the value when they are asked for it."""
    right = []
    for start in range(0, len(dialogues), ROWS):
        part = dialogues[start : start + ROWS]
        state = reader.remember(adapter, [dialogue.messages for dialogue in part])
        questions = [question_of(dialogue, attribute) for dialogue in part]
        right += reader.recall(adapter, state, [Asked(row, q.ask, q.answer) for row, q in enumerate(questions)])
    return right


def states(reader: Reader, adapter: str, dialogues: Sequence[Dialogue]) -> Tensor:
    """``[dialogues, numbers]``: the matrices of each state, flat, in float64."""
    rows = []
    for start in range(0, len(dialogues), ROWS):
        part = [dialogue.messages for dialogue in dialogues[start : start + ROWS]]
        rows.append(flat(reader.remember(adapter, part)))
    return torch.cat(rows)


def flat(state: MemoryState) -> Tensor:
    """``[rows, numbers]``, in float64."""
    return torch.cat([matrices.flatten(1) for matrices in state.states], 1).double()


def one_hot(dialogues: Sequence[Dialogue], attribute: str, values: Sequence[str]) -> Tensor:
    return torch.eye(len(values), dtype=torch.float64)[[values.index(fact_of(d, attribute).value) for d in dialogues]]


def presence(dialogues: Sequence[Dialogue], lines: Sequence[str]) -> Tensor:
    """``[dialogues, lines]``: 1 where the line was said."""
    rows = [{message.text for message in dialogue.messages} for dialogue in dialogues]
    return torch.tensor([[float(line in said) for line in lines] for said in rows], dtype=torch.float64)


class Probe:
    """A linear map from standardised states to targets."""

    def __init__(self, inputs: Tensor, targets: Tensor, penalty: float) -> None:
        self._mean, self._scale = inputs.mean(0), inputs.std(0) + 1e-9
        self._offset = targets.mean(0)
        x = self._standard(inputs)
        gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
        self._weights = torch.linalg.solve(gram, x.T @ (targets - self._offset) / len(x))

    def __call__(self, inputs: Tensor) -> Tensor:
        """The targets as the map guesses them."""
        return self._standard(inputs) @ self._weights + self._offset

    def _standard(self, inputs: Tensor) -> Tensor:
        return (inputs - self._mean) / self._scale


def fit(inputs: Tensor, targets: Tensor) -> Probe:
    """A probe whose penalty does best on a fifth of the data that it was not fitted to."""
    cut = len(inputs) * 4 // 5

    def error(penalty: float) -> float:
        guessed = Probe(inputs[:cut], targets[:cut], penalty)(inputs[cut:])
        return float((guessed - targets[cut:]).square().mean())

    return Probe(inputs, targets, min(PENALTIES, key=error))


def area(scores: Tensor, positive: Tensor) -> float:
    """The area under the ROC curve: how often a positive scores above a negative."""
    pairs = scores[positive][:, None] - scores[~positive][None]
    return float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean())


def percent(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 1)


if __name__ == "__main__":
    sys.exit(main())
