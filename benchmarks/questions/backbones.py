"""Two backbones, one recipe: how much of what an adapter recovers is memory, on the embedded backbone and on a Llama.

    python benchmarks/questions/backbones.py MODEL_FOLDER --json benchmarks/results/questions/backbones.json \
        --plot docs/images/questions/backbones.png

The same adapter, number of updates, episodes an update and learning rate three times, each with its static control:

- ``facts``: the embedded backbone; dialogues are written and their facts asked for.
- ``dialogues``: the embedded backbone; the first 80 tokens of a dialogue with questions in it are written, and what the
  assistant says in the rest of it is predicted.
- ``stories``: a pretrained TinyStories Llama in MODEL_FOLDER; the same with the stories that it tells.

The second and the third are one kind of task on two backbones, the first and the second two on one. The runs are
kept in ``--runs``; the same command goes on where it was stopped.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).parents[1])

import torch

from deltamem.demo.lessons import DialogueTokens, sample_lesson
from deltamem.demo.reader import ASSISTANT
from deltamem.train.episodes import Episode, Text
from deltamem.train.loading import load_backbone, load_episodes, pad_id
from deltamem.train.recipe import Recipe
from deltamem.train.run import run
from questions.common import arguments, finish, legend_below, panels, parse
from stories import LENGTH, WRITTEN, compared, sample_stories

SHARES = {
    "recovered_share": ("all that is recovered: (nothing − own) / (nothing − full)", "#999999"),
    "against_other": ("against another's memory: (other − own) / (nothing − full)", "#56B4E9"),
    "memory_share": ("memory: (static − own) / (nothing − full)", "#0072B2"),
}
LABELS = {
    "facts": "embedded backbone,\nfacts asked for",
    "dialogues": "embedded backbone,\ndialogues continued",
    "stories": "TinyStories Llama,\nstories continued",
}
_EPISODES, _MAX_FACTS, _FACTS = 16, 6, 4


@dataclass(frozen=True)
class Part:
    """What is different from run to run: sections of the recipe.

    Attributes:
        backbone: the frozen model.
        data: the training episodes.
        held_out: the held-out ones.
        batch: how many items of ``data`` are about 16 episodes.
    """

    backbone: dict[str, Any]
    data: dict[str, Any]
    held_out: dict[str, Any]
    batch: int = _EPISODES


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("model", type=Path, help="folder of a pretrained causal model that tells stories")
    parser.add_argument("--steps", type=int, default=600, help="updates of each adapter and of each control")
    parser.add_argument("--held-out", type=int, default=256, help="episodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/backbones"), help="where the runs are kept")
    options = parse(parser, given)
    if not (options.model / "config.json").exists():
        parser.error(f"{options.model} is no model: there is no config.json in it.")
    torch.set_float32_matmul_precision("medium")
    report: dict[str, Any] = {"model": options.model.name, "steps": options.steps, "held_out": options.held_out}
    report["runs"] = {name: measure(name, part, options) for name, part in parts(options).items()}
    for name, found in report["runs"].items():
        print(f"{name:12}", *(f"{share} {found['figures'][share]:.3f}" for share in SHARES), file=sys.stderr)
    finish(report, options, draw)
    return 0


def parts(options: argparse.Namespace) -> dict[str, Part]:
    """The three runs by name; samples the stories if that has not been done."""
    steps, held_out, seed = options.steps, options.held_out, options.seed
    total = held_out + steps * _EPISODES
    path = options.runs / f"{options.model.name}-{total}-{seed}.safetensors"
    if not path.exists():
        sample_stories(str(options.model), total, path, seed)
    embedded = {"factory": {"source": "deltamem.demo.backbone:load_backbone"}}
    return {
        "facts": Part(
            embedded,
            _source("deltamem.demo.training:training_batches", steps=steps, max_facts=_MAX_FACTS, seed=seed),
            _source("deltamem.demo.training:held_out_episodes", dialogues=held_out, facts=_FACTS, seed=seed),
            batch=1,
        ),
        "dialogues": Part(
            embedded,
            _source("questions.backbones:dialogues", count=steps * _EPISODES, seed=f"train {seed}"),
            _source("questions.backbones:dialogues", count=held_out, seed=f"held out {seed}"),
        ),
        "stories": Part(
            {"model": str(options.model), "dtype": "float32"},
            _source("stories:stories", path=str(path), first=held_out, count=steps * _EPISODES),
            _source("stories:stories", path=str(path), first=0, count=held_out),
        ),
    }


def dialogues(tokenizer: Any, *, count: int, seed: str) -> list[Episode]:
    """Dialogues with questions in them, cut into a history and a query as stories are: a recipe's data source."""
    tokens, rng = DialogueTokens(tokenizer), random.Random(f"dialogues {seed}")
    episodes = []
    while len(episodes) < count:
        turns = [turn.message for turn in sample_lesson(rng, _MAX_FACTS)]
        text = tokens.text([(message, float(message.role == ASSISTANT)) for message in turns])
        if any(text.weights[WRITTEN + 1 : LENGTH]):
            told = Text(text.ids[:WRITTEN], (0.0,) * WRITTEN, text.segments[:WRITTEN])
            episodes.append(Episode((told,), (text[WRITTEN:LENGTH],)))
    return episodes


def recipe_of(part: Part, steps: int, seed: int, folder: Path) -> Recipe:
    """The one recipe, with what is different."""
    return Recipe.model_validate(
        {
            "backbone": part.backbone,
            "adapter": {"states": 4, "init_gain": 0.5, "update_rule": "no_lambda", "gate_bias": -2.5},
            "data": part.data,
            "optimiser": {"learning_rate": 5e-3},
            "schedule": {"steps": steps, "batch": part.batch, "micro_batch": part.batch, "warm_up": 0.02},
            "evaluation": {"data": part.held_out, "episodes": 16, "batch": 16, "control": True},
            "logging": {"every": 50},
            "output": {"folder": str(folder), "save_every": 100, "keep": 1},
            "seed": seed,
        }
    )


def measure(name: str, part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, or goes on, and gives losses and shares on all held-out episodes."""
    folder = options.runs / f"{name}-{options.steps}-{options.seed}"
    recipe = recipe_of(part, options.steps, options.seed, folder)
    if signal := run(recipe, resume=folder.exists()).signal:
        raise SystemExit(128 + signal)
    model, tokenizer = load_backbone(recipe.backbone)
    held_out = load_episodes(recipe.evaluation.data, tokenizer, recipe, progress=False)  # type: ignore[arg-type]
    figures, intervals = compared(model, folder, held_out, pad_id(tokenizer), options.seed)
    return {"figures": figures, "intervals": intervals}


def _source(source: str, **options: Any) -> dict[str, Any]:
    return {"source": source, "options": options}


def draw(report: dict[str, Any]) -> Any:
    """The three shares of the three runs, side by side."""
    figure, (axes,) = panels(width=7, height=4.4)
    for place, (share, (label, colour)) in enumerate(SHARES.items()):
        found = list(report["runs"].values())
        values = [each["figures"][share] for each in found]
        low, high = zip(*(each["intervals"][share] for each in found), strict=True)
        x = [number + (place - 1) * 0.27 for number in range(len(found))]
        axes.bar(x, values, width=0.25, color=colour, label=label)
        axes.vlines(x, low, high, color="black", linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(report["runs"])), [LABELS[name] for name in report["runs"]])
    axes.set_ylabel("share of the gap between\nnothing and the full text")
    legend_below(figure, axes, columns=1)
    return figure


if __name__ == "__main__":
    sys.exit(main())
