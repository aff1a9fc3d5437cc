"""How well an adapter finds told facts before its first update: fresh weights against weights in closed form.

    python benchmarks/fit.py --json benchmarks/results/fit.json

``found``: of the answers' tokens, the share whose told place has the best address among all tokens written, the matches
of all layers and states added up. ``read``: the share for which what the layers read of the memory, through the heads,
raises the right token most among all the test's answer tokens. First tokens of an answer and later ones are counted
apart: a later one can be found by the token before it. Nothing is trained, so the model itself does not answer yet.
Intervals are 95 %, by a bootstrap over dialogues.

    python benchmarks/fit.py --sizes 1x8 2x8 4x4 4x8 4x16 8x8 --json benchmarks/results/fit_sizes.json

compares weights in closed form of several numbers of states and ranks, and so of bytes a memory.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

import deltamem
from common import command_line, keep, machine, show_cell
from deltamem.attach import attached
from deltamem.memory import DeltaMemory
from deltamem.models.loading import load_tokenizer, load_weights
from deltamem.step import Step
from deltamem.train.data.told.batches import held_out_episodes, training_batches
from deltamem.train.data.told.dialogues import Split
from deltamem.train.episodes import Episode, EpisodeBatch, collate
from deltamem.train.fit import fit, told_tokens
from deltamem.train.fitoptions import FitOptions
from deltamem.train.long import Writing, write_history
from deltamem_lab.statistics import rate_interval

CELLS: tuple[tuple[Split, int], ...] = (
    ("train", 4),
    ("known", 1),
    ("known", 4),
    ("values", 1),
    ("values", 4),
    ("relations", 1),
)
SIZED_CELLS: tuple[tuple[Split, int], ...] = (("known", 1), ("known", 4), ("known", 8), ("values", 4))
CONFIG = deltamem.DeltaMemConfig(states=4, update_rule="no_lambda", gate_bias=-2.5, init_gain=0.5)
ROWS = 8


def inputs(model: PreTrainedModel, ids: Tensor, step: Step) -> dict[int, Tensor]:
    """Each layer's input for a text that reads the memory."""
    step.inputs = {}
    attached(model).base(ids, use_cache=False, memory=step)
    return step.inputs


def addresses(memory: DeltaMemory, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Read and write addresses of tokens, ``[..., N·R]`` each, of unit length state by state."""
    width, config = memory.config.width, memory.config
    both = torch.tanh(memory.project(hidden)[..., : 2 * width])
    unit = F.normalize(both.unflatten(-1, (2, config.states, config.rank)), dim=-1)
    return unit[..., 0, :, :].flatten(-2), unit[..., 1, :, :].flatten(-2)


@torch.no_grad()
def measure(model: PreTrainedModel, episodes: Sequence[Episode]) -> dict[str, Any]:
    """What is found and read of the answers' tokens."""
    tokens, marks, matched, raised = [], [], [], []
    for start in range(0, len(episodes), ROWS):
        batch = collate(episodes[start : start + ROWS], 0)
        for token, mark, match, raises in _batch(model, batch, start):
            tokens.append(token)
            marks.append(mark)
            matched.append(match)
            raised.append(raises)
    candidates = torch.tensor(sorted(set(tokens)))
    vectors = model.get_output_embeddings().weight[candidates].float() * model.model.norm.weight.float()
    centred = vectors - vectors.mean(0)
    best = candidates[(torch.stack(raised) @ F.normalize(centred, dim=-1).T).argmax(1)].tolist()
    result: dict[str, Any] = {"tokens": len(candidates)}
    for name, later in (("first", False), ("later", True)):
        chosen = [place for place, (_, is_later) in enumerate(marks) if is_later == later]
        if chosen:
            groups = [str(marks[place][0]) for place in chosen]
            for what, hits in (("found", matched), ("read", [a == b for a, b in zip(best, tokens, strict=True)])):
                rate = rate_interval([float(hits[place]) for place in chosen], groups)
                result[f"{what} {name}"] = {"value": rate.value, "low": rate.low, "high": rate.high, "n": len(chosen)}
    return result


def _batch(model: PreTrainedModel, batch: EpisodeBatch, start: int) -> list[tuple[int, tuple[int, bool], bool, Tensor]]:
    """Of each told token: itself, its dialogue and whether it is a later one, whether it is found, and what is read."""
    attachment = attached(model)
    empty = attachment.new_state(batch.rows)
    state, _ = write_history(model, empty, batch.passages, Writing())
    told_inputs = inputs(model, batch.passages[0].ids, Step(empty, write=False))
    asked_inputs = inputs(model, batch.queries.ids, Step(state.select(batch.episode_of), write=False))
    told = told_tokens(batch)
    scores = torch.zeros(len(told), batch.passages[0].ids.shape[1])
    raised = torch.zeros(len(told), attachment.memories()[0].projection.shape[1])
    for layer, memory in enumerate(attachment.memories()):
        written = addresses(memory, told_inputs[layer])[1]
        hidden = torch.stack([asked_inputs[layer][t.query, t.before] for t in told])
        asked = addresses(memory, hidden)[0]
        rows = [t.row for t in told]
        scores += torch.einsum("mtw,mw->mt", written[rows], asked)
        reads = memory.reads(hidden[:, None], state.states[layer][rows])[:, 0].flatten(-2)
        raised += reads @ memory.named_parts()["delta_o"].T
    scores.masked_fill_(~batch.passages[0].mask[[t.row for t in told]], -torch.inf)
    found = []
    for place, t in enumerate(told):
        later = place > 0 and told[place - 1].query == t.query
        token = int(batch.passages[0].ids[t.row, t.column])
        found.append((token, (start + t.row, later), int(scores[place].argmax()) == t.column, raised[place]))
    return found


def measure_cells(
    model: PreTrainedModel, tokenizer: Any, cells: Sequence[tuple[Split, int]], dialogues: int, name: str
) -> dict[str, Any]:
    """Each cell's figures, by split and facts told."""
    found = {}
    for split, facts in cells:
        episodes = held_out_episodes(tokenizer, split=split, facts=facts, dialogues=dialogues, strict=True, seed=99)
        found[f"{split}, {facts}"] = cell = measure(model, episodes)
        show_cell(f"{name}: {split}, {facts} facts", cell)
    return found


def size(text: str) -> tuple[int, int]:
    """States and rank of ``4x8``."""
    states, rank = map(int, text.split("x"))
    return states, rank


def main() -> int:
    """Measures fresh and fitted weights side by side, or fitted ones of several sizes."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--batches", type=int, default=60, help="that the weights are computed from")
    parser.add_argument("--dialogues", type=int, default=48, help="of each cell")
    parser.add_argument(
        "--sizes", nargs="+", type=size, metavar="STATESxRANK", help="compare these, in closed form alone"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(arguments.model)
    stage = {"updates": arguments.batches, "questions": 40, "facts": [1, 1], "answered": 0.3, "strict": True}

    def attach(config: deltamem.DeltaMemConfig) -> PreTrainedModel:
        model = load_weights(arguments.model, dtype="bfloat16").eval()
        deltamem.attach(model, config)
        return model

    def fitted(model: PreTrainedModel) -> int:
        data = training_batches(tokenizer, stages=[stage], opened=0.3, seed=11)
        return fit(model, data, FitOptions(batches=arguments.batches))

    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    if arguments.sizes:
        for states, rank in arguments.sizes:
            model, name = attach(replace(CONFIG, states=states, rank=rank)), f"{states}x{rank}"
            fitted(model)
            result[name] = {"bytes": attached(model).new_state(1).nbytes}
            result[name] |= measure_cells(model, tokenizer, SIZED_CELLS, arguments.dialogues, name)
            keep(result, arguments)
        return 0
    model = attach(CONFIG)
    for name in ("fresh", "closed form"):
        if name != "fresh":
            result["told tokens"] = fitted(model)
        result[name] = measure_cells(model, tokenizer, CELLS, arguments.dialogues, name)
    keep(result, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
