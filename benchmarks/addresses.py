"""Which layers tell told facts apart: how an adapter's write addresses meet those of the questions, layer by layer.

    python benchmarks/addresses.py --json benchmarks/results/addresses.json

Four facts a dialogue. Of each, the first token of the told value has a write address, and the token before it in the
answer a read address; their product is how strongly the answer reads that place. ``found``: the share of answers whose
own place has the strongest match among the places of all four facts (chance is a quarter), the states of a layer
added up, or those of all layers. A head can turn a match's sign, so each state counts with the sign that told facts
apart in one half of the dialogues, and the rates are of the other half. Beside the trained adapter stand weights in
closed form (``deltamem.train.fit``), before their first update. Intervals are 95 %, by a bootstrap over dialogues.
"""

import random
import sys
from typing import Any

import torch
from torch import Tensor

from common import command_line, keep, machine
from deltamem.attach import attached
from deltamem.step import Step
from deltamem.train.data.told.batches import training_batches
from deltamem.train.data.told.dialogues import Mix, sample_dialogue
from deltamem.train.episodes import EpisodeBatch, collate
from deltamem.train.fit import ToldToken, fit, told_tokens
from deltamem.train.fitoptions import FitOptions
from deltamem.train.long import Writing, write_history
from deltamem_lab.real.chat import Chat
from deltamem_lab.statistics import rate_interval
from fit import addresses, inputs

FACTS, ROWS = 4, 6


@torch.no_grad()
def matches(chat: Chat, batch: EpisodeBatch) -> list[tuple[int, Tensor]]:
    """For each answer its dialogue's row, and how it matches its own place and then the others, ``[L, N, places]``."""
    attachment = attached(chat.model)
    state, _ = write_history(chat.model, attachment.new_state(batch.rows), batch.passages, Writing())
    passage = batch.passages[0]
    told_inputs = inputs(chat.model, passage.ids, Step(attachment.new_state(batch.rows), mask=passage.mask))
    asked_inputs = inputs(chat.model, batch.queries.ids, Step(state.select(batch.episode_of), write=False))
    first: dict[int, ToldToken] = {}
    for token in told_tokens(batch):
        first.setdefault(token.query, token)
    places = {row: sorted({t.column for t in first.values() if t.row == row}) for row in range(batch.rows)}
    by_layer = []
    for layer, memory in enumerate(attachment.memories()):
        by_state = (memory.config.states, memory.config.rank)
        written = addresses(memory, told_inputs[layer])[1].unflatten(-1, by_state)
        hidden = torch.stack([asked_inputs[layer][t.query, t.before] for t in first.values()])
        asked = addresses(memory, hidden)[0].unflatten(-1, by_state)
        by_layer.append(torch.einsum("mtnr,mnr->mnt", written[[t.row for t in first.values()]], asked))
    scores = torch.stack(by_layer, 1)
    found = []
    for place, token in enumerate(first.values()):
        others = [column for column in places[token.row] if column != token.column]
        if others:
            found.append((token.row, scores[place][..., [token.column, *others]]))
    return found


def measure(chat: Chat, dialogues: int) -> dict[str, Any]:
    """The rates of the active adapter."""
    rng = random.Random("addresses")
    mix = Mix(facts=(FACTS, FACTS), answered=0.3, strict=True)
    told = [chat.renderer.episode(sample_dialogue(rng, mix, "known"), None) for _ in range(dialogues)]
    found = [
        (start + row, match)
        for start in range(0, dialogues, ROWS)
        for row, match in matches(chat, collate(told[start : start + ROWS], chat.pad))
    ]
    margins = torch.stack([m[..., 0] - m[..., 1:].mean(-1) for row, m in found if row % 2])
    signs = torch.where(margins.mean(0) < 0, -1.0, 1.0)[..., None]
    tested = [(str(row), match * signs) for row, match in found if row % 2 == 0]
    groups = [group for group, _ in tested]

    def rate(matched: list[Tensor]) -> dict[str, float]:
        interval = rate_interval([float(match.argmax() == 0) for match in matched], groups)
        return {"value": interval.value, "low": interval.low, "high": interval.high}

    layers = [rate([match[layer].sum(0) for _, match in tested]) for layer in range(len(signs))]
    return {"answers": len(tested), "all": rate([match.sum((0, 1)) for _, match in tested]), "layers": layers}


def main() -> int:
    """Measures the trained adapter and the closed form side by side."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", default="multi", help="its name in the package, or a folder")
    parser.add_argument("--batches", type=int, default=60, help="that the closed form is computed from")
    parser.add_argument("--dialogues", type=int, default=48)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chat = Chat(arguments.model, {"trained": arguments.adapter, "closed form": arguments.adapter})
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    for name in chat.methods:
        chat.use(name)
        if name != "trained":
            stage = {"updates": arguments.batches, "questions": 40, "facts": [1, 2], "answered": 0.3, "strict": True}
            data = training_batches(chat.tokenizer, stages=[stage], opened=0.5, seed=11)
            fit(chat.model, data, FitOptions(batches=arguments.batches))
        result[name] = cell = measure(chat, arguments.dialogues)
        print(name, *(f"{layer['value']:.2f}" for layer in [cell["all"], *cell["layers"]]), flush=True)
        keep(result, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
