"""How often to write: recall and time of the same dialogues written by token, by message, and in other cuts.

    python benchmarks/questions/write_frequency.py --json benchmarks/results/questions/write_frequency.json \
        --plot docs/images/questions/write_frequency.png

The ``token`` adapter writes every token, or only those of the user, or every second one. The ``segment`` adapter, which
was trained on one write a message, also gets segments of one and of four tokens, sentences, exchanges of two messages
and the whole dialogue. The same held-out dialogues are written in each way, and asked about with their text gone.

Times are this process's CPU time of writing one exchange to the memory of a running session: in one pass, as a turn is
written once it is over, and token by token, as it would be while it is generated. The ways take turns in rounds; the
figures are medians. ``none`` is the bare backbone reading the same tokens.
"""

import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

import torch
from torch import Tensor
from transformers import DynamicCache

import deltamem
from common import timed
from deltamem.chat import encode_chat
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.show import load_demo
from deltamem.demo.world import Utterance, sample_dialogue
from deltamem.state import NO_SEGMENT, MemoryState
from deltamem.train.episodes import Text, TextBatch
from questions.common import arguments, finish, legend_below, line, panels, parse, rate, share_axis

FACTS = (1, 2, 4, 8)
_SMALL_TALK = 2


@dataclass(frozen=True)
class Told:
    """A dialogue as tokens; each field has one entry a token.

    Attributes:
        ids: the tokens.
        messages: the number of the message of each.
        sentences: the number of its sentence; -1 for what the chat template puts around a message.
    """

    ids: list[int]
    messages: list[int]
    sentences: list[int]

    @classmethod
    def of(cls, tokenizer: Any, messages: Sequence[Utterance]) -> "Told":
        """The tokens of messages, as the chat template gives them."""
        chat = encode_chat(tokenizer, [message.to_dict() for message in messages], segments="sentence")
        return cls(chat.input_ids[0].tolist(), chat.message[0].tolist(), chat.segment[0].tolist())


@dataclass(frozen=True)
class Way:
    """A way to write.

    Attributes:
        adapter: the adapter; ``None`` for the bare backbone.
        label: what it is called.
        cut: the segment of each token; every token is one for an adapter that writes tokens.
        writes: whether each token is written; all by default.
    """

    adapter: str | None
    label: str
    cut: Callable[[Told], list[int]] = lambda told: list(range(len(told.ids)))
    writes: Callable[[Told], list[bool]] = lambda told: [True] * len(told.ids)

    def written(self, told: Told) -> list[int]:
        """The segment of each token, -1 where it is not written."""
        if self.adapter is None:
            return [NO_SEGMENT] * len(told.ids)
        pairs = zip(self.cut(told), self.writes(told), strict=True)
        return [segment if write else NO_SEGMENT for segment, write in pairs]

    def updates(self, told: Told) -> int:
        """How often the state changes."""
        written = self.written(told)
        return sum(now not in (before, NO_SEGMENT) for before, now in pairwise([NO_SEGMENT, *written]))


WAYS = {
    "none": Way(None, "nothing is written"),
    "token": Way("token", "token adapter: every token"),
    "token_second": Way(
        "token", "token adapter: every second token", writes=lambda told: [i % 2 == 0 for i in range(len(told.ids))]
    ),
    "token_user": Way(
        "token", "token adapter: the user's tokens", writes=lambda told: [number % 2 == 0 for number in told.messages]
    ),
    "segment_1": Way("segment", "segment adapter: one token"),
    "segment_4": Way(
        "segment", "segment adapter: four tokens", lambda told: [place // 4 for place in range(len(told.ids))]
    ),
    "sentence": Way("segment", "segment adapter: a sentence", lambda told: told.sentences),
    "message": Way("segment", "segment adapter: a message, as trained", lambda told: told.messages),
    "exchange": Way("segment", "segment adapter: an exchange", lambda told: [number // 2 for number in told.messages]),
    "dialogue": Way("segment", "segment adapter: the whole dialogue", lambda told: [0] * len(told.ids)),
}

LOOKS = (
    ("#999999", ":"),
    ("#E69F00", "-"),
    ("#E69F00", "--"),
    ("#E69F00", ":"),
    ("#56B4E9", ":"),
    ("#56B4E9", "--"),
    ("#0072B2", "-"),
    ("#009E73", "-"),
    ("#D55E00", "-"),
    ("#CC79A7", "-"),
)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=240, help="about so many for each number of facts")
    parser.add_argument("--rounds", type=int, default=15, help="of the times")
    options = parse(parser, given)
    model, tokenizer = load_demo()
    recall = measure_recall(model, tokenizer, options.questions)
    times = measure_times(model, tokenizer, options.rounds)
    for name, way in WAYS.items():
        shares = " ".join(f"{rates['value']:.3f}" for rates in recall[name].values())
        cost = times[name]
        print(
            f"{way.label:40} {cost['updates_a_turn']:3} updates {cost['pass_ms']:7.2f} ms in one pass "
            f"{cost['stream_ms']:7.2f} ms by token   recall {shares}",
            file=sys.stderr,
        )
    finish({"facts": list(FACTS), "recall": recall, "times": times, "rounds": options.rounds}, options, draw)
    return 0


def measure_recall(model: Any, tokenizer: Any, questions: int) -> dict[str, dict[str, Any]]:
    """Recall by way and number of facts."""
    reader = Reader(model, tokenizer)
    recall: dict[str, dict[str, Any]] = {name: {} for name in WAYS}
    for facts in FACTS:
        rng = random.Random(f"write frequency/{facts}")
        dialogues = [
            sample_dialogue(rng, facts=facts, small_talk=_SMALL_TALK, split="test") for _ in range(questions // facts)
        ]
        told = [Told.of(tokenizer, dialogue.messages) for dialogue in dialogues]
        asked = [Asked(row, q.ask, q.answer) for row, dialogue in enumerate(dialogues) for q in dialogue.questions]
        for name, way in WAYS.items():
            state = None if way.adapter is None else remember(model, way, told)
            right = reader.recall(way.adapter, state, asked)
            recall[name][str(facts)] = rate(right, [question.row for question in asked])
    return recall


def remember(model: Any, way: Way, told: Sequence[Told], state: MemoryState | None = None) -> MemoryState:
    """The memories ``[B]`` of dialogues that are written in one way."""
    deltamem.attached(model).activate(way.adapter)
    texts = [Text(tuple(each.ids), tuple(map(float, way.writes(each))), tuple(way.cut(each))) for each in told]
    batch = TextBatch.pad(texts, pad_id=0)
    with torch.inference_mode():
        return deltamem.observe(
            model,
            batch.ids,
            state,
            attention_mask=batch.mask.long() if len(told) > 1 else None,
            segment_ids=batch.segments,
            write=None if batch.weights[batch.mask].all() else batch.weights > 0,
        )


def measure_times(model: Any, tokenizer: Any, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of CPU to write an exchange after others, and how often the state changes in it."""
    before, turn = exchanges(tokenizer)
    works = {
        name: (one_pass(model, way, before, turn), by_token(model, way, before, turn)) for name, way in WAYS.items()
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for round_ in range(rounds + 1):
        for name, (whole, stream) in works.items():
            deltamem.attached(model).activate(WAYS[name].adapter)
            seconds = timed(whole), timed(stream)
            if round_:  # the first one warms up
                taken[name].append(seconds)
    found = {}
    for name, way in WAYS.items():
        whole, stream = (1000 * statistics.median(series) for series in zip(*taken[name], strict=True))
        written = sum(segment != NO_SEGMENT for segment in way.written(turn))
        found[name] = {
            "adapter": way.adapter,
            "label": way.label,
            "tokens_a_turn": len(turn.ids),
            "written_tokens_a_turn": written,
            "updates_a_turn": way.updates(turn),
            "pass_ms": round(whole, 3),
            "pass_ms_a_written_token": round(whole / written, 4) if written else None,
            "stream_ms": round(stream, 3),
            "stream_ms_a_written_token": round(stream / written, 4) if written else None,
        }
    return found


def exchanges(tokenizer: Any) -> tuple[Told, Told]:
    """A dialogue of four facts, and a fifth exchange."""
    messages = sample_dialogue(random.Random("times"), facts=5, split="test").messages
    return Told.of(tokenizer, messages[:-2]), Told.of(tokenizer, messages[-2:])


def one_pass(model: Any, way: Way, before: Told, turn: Told) -> Callable[[], object]:
    """Writes the turn in one forward pass; the bare backbone only reads it."""
    if way.adapter is None:
        ids = torch.tensor([turn.ids])
        return torch.inference_mode()(lambda: model.model(ids, use_cache=False))
    state = remember(model, way, [before])
    return lambda: remember(model, way, [turn], state)


def by_token(model: Any, way: Way, before: Told, turn: Told) -> Callable[[], object]:
    """Writes the turn as it comes, a forward pass a token; the bare backbone only reads it."""
    state = None if way.adapter is None else remember(model, way, [before])
    ids, segments = torch.tensor([turn.ids]), torch.tensor([way.cut(turn)])
    writes = way.writes(turn)

    @torch.inference_mode()
    def work() -> None:
        cache = DynamicCache() if state is None else stream_cache(model, state, segments)
        for place, write in enumerate(writes):
            if state is not None:
                cache.write = write
            model.model(ids[:, place : place + 1], past_key_values=cache)

    return work


def stream_cache(model: Any, state: MemoryState, segments: Tensor) -> Any:
    """A cache that writes on from a memory, in the given segments where the adapter writes segments."""
    attachment = deltamem.attached(model)
    return deltamem.memory_cache(model, state, segment_ids=segments if attachment.config.writes_segments else None)


def draw(report: dict[str, Any]) -> Any:
    """Recall by number of facts, and recall of four facts against the updates and the time they cost."""
    figure, (left, right) = panels(2)
    places = list(range(len(report["facts"])))
    for (name, way), (colour, dash) in zip(WAYS.items(), LOOKS, strict=True):
        rates, cost = report["recall"][name], report["times"][name]
        line(left, places, list(rates.values()), (way.label, colour, dash))
        right.plot(cost["stream_ms"], rates["4"]["value"], "o", color=colour, markersize=7)
        right.annotate(f" {cost['updates_a_turn']}", (cost["stream_ms"], rates["4"]["value"]), fontsize=8)
    left.set_xticks(places, [str(facts) for facts in report["facts"]])
    left.set_xlabel("facts told in the dialogue")
    share_axis(left)
    share_axis(right, "recall of four facts")
    right.set_xlabel("ms of CPU to write an exchange token by token\n(beside each point: updates of the state)")
    legend_below(figure, left)
    return figure


if __name__ == "__main__":
    sys.exit(main())
