"""The open questions on real pretrained models: what becomes of a story's beginning in the memory of a story-teller.

    python benchmarks/questions/pretrained.py MODEL_FOLDER MODEL_FOLDER \
        --json benchmarks/results/questions/pretrained.json --plot docs/images/questions/pretrained.png

Each model tells stories of its own, whose first 80 tokens are written and whose rest is predicted without them (see
``benchmarks/stories.py``). Several adapters are trained alike on each model, by update rule, number of states, rank
and write strategy, all with their static controls. One of them (``delta rule``) then meets what it was not trained
on: other beginnings before and after its own, the same one several times, noise, another story that is repeated,
fewer writes, and stories told at another temperature.

What is measured is memory alone: (static - own) / (nothing - full), losses being those of the rest of the stories and
that of the static control being from what it was trained on, a stranger's beginning and nothing else.
Intervals are 95 % of a bootstrap over stories. The runs are kept in ``--runs``; the same command goes on where it was
stopped.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import deltamem
from deltamem.attach import attached
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.checkpoints import CONTROL, METRICS_FILE, last_checkpoint
from deltamem.train.episodes import EpisodeBatch, TextBatch, collate
from deltamem.train.passes import Answers, answers, forward, read, read_bare
from deltamem.train.recipe import Recipe
from deltamem.train.run import run
from deltamem.train.views import full_texts
from questions.common import MORE_COLOURS, arguments, finish, legend_below, line, panels, parse
from stories import TEMPERATURE, WRITTEN, Stories, ends, load_tokenizer, sample_stories

CENTRE = "delta rule"
SEGMENT, BATCH, ROWS, DRAWS, HOT = 8, 32, 256, 1000, 1.3
# What is different from the centre. Segments are means and few, so their gate starts open.
VARIANTS: dict[str, dict[str, Any]] = {
    CENTRE: {},
    "sum that fades": {"update_rule": "hebbian"},
    "sum": {"update_rule": "accumulate"},
    "one state": {"states": 1},
    "eight states": {"states": 8},
    "rank 16": {"rank": 16},
    f"segments of {SEGMENT} tokens": {"write": "message", "gate_bias": 1.0, "init_gain": 1.0},
}
# Tokens of other stories' beginnings, and the rows that read so many.
SINCE = {0: 256, 80: 256, 240: 256, 800: 256, 2_400: 128, 8_000: 64, 24_000: 32, 100_000: 16}
BEFORE = (80, 240, 800, 2_400)
REPEATS, NOISE, PLANTED, EVERY = (2, 4, 16), (80, 800), (1, 4, 16), (2, 4, 8)
# Where the plots end: farther below nothing it only gets worse.
LOWEST = -1.5

Losses = dict[str, Tensor]
# From the beginnings ``[B, T]`` to what is written, in passages ``[B, T]``, and which tokens of each are.
Scene = Callable[[Tensor], list[tuple[Tensor, Tensor | None]]]


@dataclass(frozen=True)
class Held:
    """Held-out stories, and where others come from.

    Attributes:
        batch: one episode a story.
        others: ``[N, T]``, beginnings of stories that are not held out.
        vocabulary: how many tokens there are.
    """

    batch: EpisodeBatch
    others: Tensor
    vocabulary: int

    @property
    def beginnings(self) -> Tensor:
        """``[B, T]``."""
        return self.batch.passages[0].ids

    def strangers(self, rows: int, tokens: int, name: str) -> list[tuple[Tensor, None]]:
        """Passages of other stories' beginnings, so many tokens a row."""
        rng = random.Random(name)
        count = len(self.others)
        drawn = [[rng.randrange(count) for _ in range(rows)] for _ in range(tokens // WRITTEN)]
        return [(self.others[places], None) for places in drawn]


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("models", type=Path, nargs="+", help="folders of pretrained causal models that tell stories")
    parser.add_argument("--steps", type=int, default=200, help="updates of each adapter and of each control")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="adapters to train")
    parser.add_argument("--held-out", type=int, default=512, help="stories")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrained"), help="where the runs are kept")
    options = parse(parser, given)
    for model in options.models:
        if not (model / "config.json").exists():
            parser.error(f"{model} is no model: there is no config.json in it.")
    if CENTRE not in options.only:
        parser.error(f"--only needs {CENTRE!r}, which meets everything")
    torch.set_float32_matmul_precision("medium")
    report: dict[str, Any] = {"steps": options.steps, "held_out": options.held_out, "centre": CENTRE}
    report["models"] = {folder.name: of_model(folder, options) for folder in options.models}
    finish(report, options, draw)
    return 0


def of_model(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, or goes on, and measures one model."""
    path = sampled(folder, options.held_out + options.steps * BATCH, TEMPERATURE, options)
    tokenizer = load_tokenizer(str(folder))
    held = held_out(path, options.held_out, len(tokenizer), tokenizer.eos_token_id)
    variants: dict[str, Any] = {}
    for name, change in VARIANTS.items():
        if name not in options.only:
            continue
        model = loaded(folder, train(folder, path, name, change, options))
        yardsticks = measured(model, held)
        variants[name] = shares(yardsticks, asked(model, held, as_told, len(held.beginnings)))
        print(f"{folder.name}, {name}: memory {variants[name]['memory']['value']:.3f}", file=sys.stderr, flush=True)
        if name == CENTRE:
            scenes = {
                scene: shares(yardsticks, asked(model, held, told, ROWS)) for scene, told in all_scenes(held).items()
            }
            since = since_told(model, held, yardsticks)
            hot = sampled(folder, options.held_out, HOT, options)
            other = held_out(hot, options.held_out, held.vocabulary, 0, others=held.others)
            found = asked(model, other, as_told, options.held_out)
            scenes[f"stories told at temperature {HOT}"] = shares(measured(model, other), found)
    return {"variants": variants, "since": since, "scenes": scenes}


def sampled(folder: Path, count: int, temperature: float, options: argparse.Namespace) -> Path:
    """The file of a model's stories; they are sampled if that has not been done."""
    path: Path = options.runs / f"{folder.name}-{count}-{temperature}-{options.seed}.safetensors"
    if not path.exists():
        sample_stories(str(folder), count, path, options.seed, temperature)
    return path


def held_out(path: Path, count: int, vocabulary: int, pad_id: int, others: Tensor | None = None) -> Held:
    """The first stories of a file; the beginnings of the rest are the others."""
    batch = collate(Stories(str(path), 0, count, SEGMENT).episodes, pad_id)
    rest = load_file(path)["stories"][count:, :WRITTEN].long() if others is None else others
    return Held(batch, rest, vocabulary)


def recipe_of(
    folder: Path, path: Path, change: dict[str, Any], output: Path, *, steps: int, held_out: int, seed: int
) -> Recipe:
    """The one recipe, with what is different in the adapter."""

    def part(first: int, count: int) -> dict[str, Any]:
        options = {"path": str(path), "first": first, "count": count, "segment": SEGMENT}
        return {"source": "stories:stories", "options": options}

    centre = {"states": 4, "heads": ["q", "k", "v", "o"], "init_gain": 0.5, "gate_bias": -2.5}
    return Recipe.model_validate(
        {
            "backbone": {"model": str(folder), "dtype": "float32"},
            "adapter": {"update_rule": "no_lambda", **centre, **change},
            "data": part(held_out, steps * BATCH),
            "objective": {"cross_entropy": 0.3, "distillation": 1.0},
            "optimiser": {"learning_rate": 5e-3},
            "schedule": {"steps": steps, "batch": BATCH, "micro_batch": BATCH, "warm_up": 0.02},
            "evaluation": {"data": part(0, held_out), "episodes": 16, "batch": 16, "control": True},
            "logging": {"every": 100},
            "output": {"folder": str(output), "save_every": 100, "keep": 1},
            "seed": seed,
        }
    )


def train(folder: Path, path: Path, name: str, change: dict[str, Any], options: argparse.Namespace) -> Path:
    """The folder of a run with its static control, trained to the end."""
    output: Path = options.runs / f"{folder.name}-{name.replace(' ', '-')}-{options.steps}-{options.seed}"
    if not (output / METRICS_FILE).exists():
        sizes = {"steps": options.steps, "held_out": options.held_out, "seed": options.seed}
        recipe = recipe_of(folder, path, change, output, **sizes)
        if signal := run(recipe, resume=output.exists()).signal:
            raise SystemExit(128 + signal)
    return output


def loaded(folder: Path, trained: Path) -> Any:
    """The model with a run's adapter (``own``) and its control (``static``)."""
    control = last_checkpoint(trained / CONTROL)
    assert control is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    deltamem.load_adapter(model, trained, "own")
    deltamem.load_adapter(model, control, "static")
    return model


def as_told(beginnings: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """The beginnings and nothing else, as in training."""
    return [(beginnings, None)]


def all_scenes(held: Held) -> dict[str, Scene]:
    """What the adapter was not trained on, by what it is called."""

    def after(tokens: int) -> Scene:
        return lambda own: [*held.strangers(len(own), tokens, f"before {tokens}"), (own, None)]

    def again(times: int) -> Scene:
        return lambda own: [(own, None)] * times

    def noisy(tokens: int) -> Scene:
        return lambda own: [(own, None), *noise(held, own, tokens)]

    def planted(times: int) -> Scene:
        return lambda own: [(own, None), *held.strangers(len(own), WRITTEN, "planted") * times]

    def every(step: int) -> Scene:
        return lambda own: [(own, (torch.arange(WRITTEN) % step == step - 1).expand_as(own))]

    return (
        {"as trained": as_told}
        | {f"after {tokens:,} tokens of other stories": after(tokens) for tokens in BEFORE}
        | {f"told {times} times": again(times) for times in REPEATS}
        | {f"then {tokens} random tokens": noisy(tokens) for tokens in NOISE}
        | {f"then another story, {times} times": planted(times) for times in PLANTED}
        | {f"one token of {step} written": every(step) for step in EVERY}
    )


def noise(held: Held, own: Tensor, tokens: int) -> list[tuple[Tensor, None]]:
    """Passages of tokens drawn from the whole vocabulary."""
    draw = torch.Generator().manual_seed(tokens)
    shape = (tokens // WRITTEN, *own.shape)
    return [(ids, None) for ids in torch.randint(held.vocabulary, shape, generator=draw)]


@torch.inference_mode()
def measured(model: Any, held: Held) -> Losses:
    """The loss ``[B]`` of each story's rest that the others are compared with.

    The static control meets a stranger's beginning and nothing else, as it was trained: what unsettles its memory
    unsettles its answers, and would pass for memory in the other.
    """
    rows = len(held.beginnings)
    query, full = held.batch.queries, full_texts(held.batch)
    strange = remember(model, "static", as_told(held.beginnings)).select(turned(rows))
    return {
        "nothing": summed(read_bare(model, query), rows),
        "full": summed(read_bare(model, full), rows),
        "static": from_memory(model, "static", strange, query),
    }


@torch.inference_mode()
def asked(model: Any, held: Held, scene: Scene, rows: int) -> Losses:
    """The same of the adapter, from the story's own memory and from another's, of the first so many stories."""
    return own_and_other(model, held, remember(model, "own", scene(held.beginnings[:rows])))


def own_and_other(model: Any, held: Held, state: MemoryState) -> Losses:
    """The losses of the first rows, as many as the memory has."""
    query = first(held.batch.queries, state.batch)
    return {
        "own": from_memory(model, "own", state, query),
        "other": from_memory(model, "own", state.select(turned(state.batch)), query),
    }


def from_memory(model: Any, adapter: str, state: MemoryState, query: TextBatch) -> Tensor:
    """``[B]``, the sum of the losses of each text, read from a memory."""
    attached(model).activate(adapter)
    return summed(answers(model, read(model, state, query), query), state.batch)


def turned(rows: int) -> list[int]:
    """For each row the next."""
    return [(row + 1) % rows for row in range(rows)]


def remember(
    model: Any, adapter: str, passages: list[tuple[Tensor, Tensor | None]], state: MemoryState | None = None
) -> MemoryState:
    """Writes passages into an adapter's memory, one after another."""
    attachment = attached(model)
    attachment.activate(adapter)
    state = attachment.new_state(len(passages[0][0])) if state is None else state
    for ids, written in passages:
        segments = (torch.arange(ids.shape[1]) // SEGMENT).expand_as(ids)
        text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(ids.shape), segments)
        write = True if written is None else written
        step = Step(state, write=write, mask=text.mask, segment_ids=segments, close=True)
        forward(model, text, step)
        state = step.new_state
    return state


@torch.inference_mode()
def since_told(model: Any, held: Held, yardsticks: Losses) -> list[dict[str, Any]]:
    """Memory of a beginning and the norm of the state, against the tokens of other stories since."""
    points: list[dict[str, Any]] = []
    state = remember(model, "own", as_told(held.beginnings))
    before = 0
    for tokens, most in SINCE.items():
        rows = min(most, state.batch)
        state = state.select(range(rows))
        if passages := held.strangers(rows, tokens - before, f"since {tokens}"):
            state = remember(model, "own", passages, state)
        before = tokens
        found = shares(yardsticks, own_and_other(model, held, state))
        points.append({"tokens": tokens, "norm": round(state.norms().mean().item(), 3), "rows": rows, **found})
    return points


def first(text: TextBatch, rows: int) -> TextBatch:
    """The first rows of a batch of texts."""
    return TextBatch(text.ids[:rows], text.mask[:rows], text.weights[:rows], text.segments[:rows])


def summed(found: Answers, rows: int) -> Tensor:
    """``[B]``, the sum of each text's losses."""
    return torch.zeros(rows).index_add(0, found.rows, found.losses() * found.weights)


def shares(yardsticks: Losses, told: Losses) -> dict[str, Any]:
    """Shares of the gap with their intervals: what is memory, and what is better than from another's memory."""
    rows = len(told["own"])
    found = {name: loss[:rows] for name, loss in (yardsticks | told).items()}
    draws = torch.randint(rows, (DRAWS, rows), generator=torch.Generator().manual_seed(0))

    def share(than: str, places: Tensor) -> Tensor:
        sums = {name: loss[places].sum(-1) for name, loss in found.items()}
        return (sums[than] - sums["own"]) / (sums["nothing"] - sums["full"])

    def both(than: str) -> dict[str, Any]:
        interval = [round(end, 4) for end in ends(sorted(share(than, draws).tolist()))]
        return {"value": round(share(than, torch.arange(rows)).item(), 4), "interval": interval}

    return {"memory": both("static"), "against_other": both("other")}


def draw(report: dict[str, Any]) -> Any:
    """Both shares against what was read since, the norm of the states, the trained variants, and the scenes."""
    figure, (since, norms, variants, scenes) = panels(4, columns=2, width=6.2, height=4.2)
    for number, (name, found) in enumerate(report["models"].items()):
        colour, points = MORE_COLOURS[number], found["since"]
        tokens = [point["tokens"] for point in points]
        line(since, tokens, [point["memory"] for point in points], (f"{name}: memory", colour, "-"))
        line(since, tokens, [point["against_other"] for point in points], (f"{name}: against another's", colour, ":"))
        norms.plot(tokens, [point["norm"] for point in points], color=colour, marker="o", markersize=4)
        offset = (number - (len(report["models"]) - 1) / 2) * 0.36
        for axes, part in ((variants, found["variants"]), (scenes, found["scenes"])):
            places = [place + offset for place in range(len(part))]
            axes.barh(places, [each["memory"]["value"] for each in part.values()], height=0.34, color=colour)
            low, high = zip(*(each["memory"]["interval"] for each in part.values()), strict=True)
            axes.hlines(places, low, high, color="black", linewidth=1)
            axes.plot(
                [each["against_other"]["value"] for each in part.values()], places, "d", color=colour, markersize=4
            )
            axes.set_yticks(range(len(part)), list(part), fontsize=7)
    for axes in (since, norms):
        axes.set_xscale("symlog", linthresh=80)
        axes.set_xlim(-10, 1.2 * max(SINCE))
        axes.set_xticks(list(SINCE), [f"{mark:,}" for mark in SINCE], rotation=40, fontsize=8)
        axes.set_xlabel("tokens of other stories since")
    since.axhline(0, color="black", linewidth=0.8)
    since.set_ylim(LOWEST, 1)
    since.set_ylabel("share of the gap")
    norms.set_ylabel("mean Frobenius norm of a state")
    norms.set_ylim(bottom=0)
    for axes in (variants, scenes):
        axes.axvline(0, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of the gap (bars: memory, diamonds: against another's)")
    scenes.set_xlim(LOWEST, 1.3)
    variants.set_title("trained alike")
    scenes.set_title(f"{report['centre']}, with what it was not trained on")
    legend_below(figure, since, columns=2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
