"""What a write address should be made from: the token itself, the token before it, or the last few.

    python benchmarks/address_inputs.py --json benchmarks/results/address_inputs.json

A layer's write address is a projection of its input at the token that is written. Here addresses are computed in closed
form (canonical correlations of where told tokens are written and where they are asked for, as ``deltamem.train.fit``
does) from other inputs too: the input one token earlier, both, and both with the mean of the last eight. Read addresses
stay projections of one token's input. Nothing is trained, and the heads are silent. ``found``: the share of answers to
one of four facts whose own place has the strongest match among the places of all four (chance is a quarter), the
matches of the layers added up, or of one layer. Intervals are 95 %, by a bootstrap over dialogues.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import deltamem
from common import command_line, keep, machine
from deltamem.attach import attached
from deltamem.models.loading import load_tokenizer, load_weights
from deltamem.step import Step
from deltamem.train.data.told.batches import training_batches
from deltamem.train.data.told.dialogues import Mix, sample_dialogue
from deltamem.train.data.told.rendering import Renderer
from deltamem.train.episodes import EpisodeBatch, collate
from deltamem.train.fit import ToldToken, told_tokens
from deltamem_lab.statistics import rate_interval
from fit import CONFIG, inputs

LAYERS = (2, 6, 10, 14, 18, 22, 26, 29)
FACTS, ROWS, RIDGE = 4, 6, 0.03


def written_from(hidden: Tensor) -> dict[str, Tensor]:
    """The inputs ``[B, T, ·]`` that a write address may be made from, of a layer's ``[B, T, D]``."""
    before = F.pad(hidden, (0, 0, 1, -1))
    summed = hidden.cumsum(1)
    last = (summed - F.pad(summed, (0, 0, 8, -8))) / 8
    return {
        "the token": hidden,
        "the one before": before,
        "both": torch.cat([hidden, before], -1),
        "both and the last eight": torch.cat([hidden, before, last], -1),
    }


class Moments:
    """Sums over written tokens, told ones and where those are asked for."""

    def __init__(self) -> None:
        self.written: Any = 0
        self.written_sum: Any = 0
        self.asked: Any = 0
        self.asked_sum: Any = 0
        self.pairs: Any = 0
        self.count = self.told = 0

    def add(self, written: Tensor, told: Tensor, asked: Tensor) -> None:
        """All written tokens ``[W, E]``, the told ones ``[M, E]``, and where they are asked for ``[M, D]``."""
        self.written, self.written_sum = self.written + written.T @ written, self.written_sum + written.sum(0)
        self.asked, self.asked_sum = self.asked + asked.T @ asked, self.asked_sum + asked.sum(0)
        self.pairs = self.pairs + told.T @ asked
        self.count, self.told = self.count + len(written), self.told + len(told)

    def projections(self, width: int) -> tuple[Tensor, Tensor]:
        """Write ``[width, E]`` and read ``[width, D]`` projections whose addresses of a told token are alike."""
        write, read = (
            _whitening(self.written, self.written_sum, self.count),
            _whitening(self.asked, self.asked_sum, self.told),
        )
        left, strengths, right = torch.linalg.svd(write @ (self.pairs / self.told) @ read.T, full_matrices=False)
        turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)))[0]
        scale = turn * strengths[:width].sqrt()
        return scale @ left[:, :width].T @ write, scale @ right[:width] @ read


def _whitening(squares: Tensor, total: Tensor, count: int) -> Tensor:
    """What makes all directions alike and leaves the mean out, which would make all addresses alike."""
    mean = F.normalize(total, dim=0)
    centre = torch.eye(len(mean)) - torch.outer(mean, mean)
    variances, axes = torch.linalg.eigh(centre @ (squares / count) @ centre)
    variances = variances.clamp(min=0)
    return axes * (variances + RIDGE * variances.mean()).rsqrt() @ axes.T @ centre


def units(projected: Tensor) -> Tensor:
    """Addresses ``[..., N·R]`` as a memory makes them: bounded, of unit length state by state."""
    by_state = torch.tanh(projected).unflatten(-1, (CONFIG.states, CONFIG.rank))
    return F.normalize(by_state, dim=-1).flatten(-2)


def read_batch(model: Any, batch: EpisodeBatch) -> tuple[dict[int, Tensor], dict[int, Tensor], list[ToldToken]]:
    """The layers' inputs for the history and for the questions, and the told tokens."""
    attachment, passage = attached(model), batch.passages[0]
    told = inputs(model, passage.ids, Step(attachment.new_state(batch.rows), mask=passage.mask, write=False))
    asked = inputs(model, batch.queries.ids, Step(attachment.new_state(len(batch.episode_of)), write=False))
    return told, asked, told_tokens(batch)


@torch.no_grad()
def compute(model: Any, data: Sequence[EpisodeBatch]) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """The projections of write and read addresses by what they are made from, and by layer."""
    moments: dict[tuple[str, int], Moments] = {}
    for batch in data:
        written, asked, told = read_batch(model, batch)
        mask = batch.passages[0].mask
        for layer in LAYERS:
            asked_for = asked[layer].float()[[t.query for t in told], [t.before for t in told]]
            for name, found in written_from(written[layer].float()).items():
                there = found[[t.row for t in told], [t.column for t in told]]
                moments.setdefault((name, layer), Moments()).add(found[mask], there, asked_for)
    return {place: moment.projections(CONFIG.width) for place, moment in moments.items()}


@torch.no_grad()
def measure(
    model: Any, episodes: Sequence[Any], projections: dict[tuple[str, int], tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """What is found, by what the addresses are made from."""
    hits: dict[str, dict[str, list[float]]] = {}
    groups: list[str] = []
    for start in range(0, len(episodes), ROWS):
        batch = collate(episodes[start : start + ROWS], 0)
        written, asked, told = read_batch(model, batch)
        first: dict[int, ToldToken] = {}
        for token in told:
            first.setdefault(token.query, token)
        tokens = list(first.values())
        places = {row: sorted({t.column for t in tokens if t.row == row}) for row in range(batch.rows)}
        tokens = [token for token in tokens if len(places[token.row]) > 1]
        groups += [str(start + token.row) for token in tokens]
        rows, queries, before = ([getattr(t, name) for t in tokens] for name in ("row", "query", "before"))
        matched: dict[str, dict[str, Tensor]] = {}
        for layer in LAYERS:
            for name, found in written_from(written[layer].float()).items():
                write, read = projections[name, layer]
                keys, query = units(found @ write.T), units(asked[layer].float()[queries, before] @ read.T)
                matched.setdefault(name, {})[str(layer)] = torch.einsum("mtw,mw->mt", keys[rows], query)
        for name, by_layer in matched.items():
            for layer_name, match in {"all": sum(by_layer.values()), **by_layer}.items():
                for place, token in enumerate(tokens):
                    best = float(match[place, token.column] >= match[place, places[token.row]].max())  # type: ignore
                    hits.setdefault(name, {}).setdefault(layer_name, []).append(best)
    return {
        name: {layer: asdict(rate_interval(values, groups)) for layer, values in by_layer.items()}
        for name, by_layer in hits.items()
    } | {"answers": len(groups)}


def main() -> int:
    """Computes the addresses and measures what they find."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--batches", type=int, default=80, help="that the addresses are computed from")
    parser.add_argument("--dialogues", type=int, default=48, help="of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(arguments.model), load_weights(arguments.model, dtype="bfloat16").eval()
    deltamem.attach(model, CONFIG)
    stage = {"updates": arguments.batches, "questions": 40, "facts": [1, 3], "answered": 0.3, "strict": True}
    batches = training_batches(tokenizer, stages=[stage | {"also_ask": True}], opened=0.5, seed=11)
    projections = compute(model, [batches[number] for number in range(arguments.batches)])
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    renderer, rng, mix = Renderer(tokenizer), random.Random("inputs"), Mix(facts=(FACTS, FACTS), strict=True)
    for split in ("known", "values"):
        told = [sample_dialogue(rng, mix, split) for _ in range(arguments.dialogues)]
        result[split] = measure(model, [renderer.episode(dialogue, None) for dialogue in told], projections)
        print(split, {n: round(c["all"]["value"], 2) for n, c in result[split].items() if n != "answers"}, flush=True)
        keep(result, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
