"""The demo's three adapters: how each is trained on the frozen backbone, and where they lie.

``python -m deltamem.demo.adapters multi`` trains one on one CPU core; :func:`load_demo_adapter` loads it.
"""

import argparse
import json
import platform
import random
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from deltamem.adapters import load_adapter, save_adapter
from deltamem.attach import Attachment, attach, attached
from deltamem.config import DeltaMemConfig
from deltamem.demo.backbone import load_backbone, load_folder
from deltamem.demo.episodes import EpisodeSampler, Mix
from deltamem.demo.reader import Asked, Reader
from deltamem.demo.world import sample_dialogue
from deltamem.files import write_atomically
from deltamem.train.trainer import Trainer, TrainingPlan

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

Which = Literal["token", "segment", "multi"]
TRAINING_FILE = "training.json"
_ADAPTERS = Path("src/deltamem/demo/assets/adapters")


@dataclass(frozen=True)
class Recipe:
    """What an adapter is and how it is trained: from scratch, or on from the adapter in the folder ``start``."""

    config: DeltaMemConfig
    mix: Mix
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    start: Path | None = None


# They depart from the published defaults in three things. Their keep gate is one (``no_lambda``) and their write gate
# starts lower: what lets go of a little at every token has to learn to let go at few, and with the standard rule the
# multi-state adapter had 0.43 of four held-out facts after 1,000 steps, where this one had 0.85. A segment is the mean
# of its tokens and written once, so its write gate starts open. Larger initial heads make recall form sooner.
RECIPES: dict[Which, Recipe] = {
    "token": Recipe(
        DeltaMemConfig(init_gain=0.5, update_rule="no_lambda", gate_bias=-2.5),
        Mix(max_facts=5),
        TrainingPlan(steps=3000),
    ),
    "segment": Recipe(
        DeltaMemConfig(init_gain=1.0, update_rule="no_lambda", gate_bias=1.0, write="message"),
        Mix(max_facts=5, plain=0.12),
        TrainingPlan(steps=3000),
    ),
    "multi": Recipe(
        DeltaMemConfig(init_gain=0.5, update_rule="no_lambda", gate_bias=-2.5, states=4),
        Mix(max_facts=10),
        TrainingPlan(steps=3500),
    ),
}

# A second stage for the multi-state adapter: more facts, and more dialogues that are asked about while their text is
# still there, which is what a memory that writes along disturbs.
REFINED = Recipe(
    RECIPES["multi"].config,
    Mix(max_facts=14, plain=0.0, grown=0.02, answered=0.4, queries=6, episodes=20),
    TrainingPlan(steps=4000, peak_rate=3e-3),
    start=_ADAPTERS / "multi",
)


def load_demo_adapter(model: "Qwen3ForCausalLM", which: Which, name: str | None = None) -> Attachment:
    """Puts one of the package's adapters on the package's backbone and makes it active.

    Args:
        model: what :func:`deltamem.demo.backbone.load_backbone` gave.
        which: ``token``, ``segment`` or ``multi``.
        name: the adapter's name on the model; ``which`` by default.

    Raises:
        ValueError: there is no such adapter.
        AdapterFileError: the model is another backbone, or the file is damaged.
    """
    if which not in RECIPES:
        raise ValueError(f"There is no demo adapter {which!r}; there are: {', '.join(RECIPES)}.")
    with as_file(files("deltamem.demo").joinpath("assets", "adapters", which)) as folder:
        return load_adapter(model, folder, name or which)


def train(
    which: Which,
    output: Path,
    *,
    backbone: Path | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> bool:
    """Trains an adapter and writes its folder; false if a signal stopped it first.

    Args:
        which: the adapter.
        output: the folder to write.
        backbone: the backbone's folder; the package's own by default.
        checkpoint: where to keep the run, and to resume it from.
        seed: of the dialogues and the initial weights.
        recipe: the adapter's first stage by default.
    """
    recipe = recipe or RECIPES[which]
    torch.manual_seed(seed)
    model, tokenizer = load_folder(backbone) if backbone else load_backbone()
    if recipe.start:
        load_adapter(model, recipe.start, which)
    else:
        attach(model, recipe.config, name=which)
    sampler = EpisodeSampler(tokenizer, recipe.mix, steps=recipe.plan.steps, seed=seed)
    reader = Reader(model, tokenizer)
    trainer = Trainer(
        model,
        sampler.batch_at,
        recipe.plan,
        checkpoint=checkpoint,
        evaluate=lambda: held_out_recall(reader, which),
        log=lambda line: print(line, flush=True),
    )
    finished = trainer.run()
    if finished:
        _round_to_bfloat16(model)
        save_adapter(model, output)
        record: dict[str, Any] = {
            "command": f"python -m deltamem.demo.adapters {which}{' --refine' * bool(recipe.start)}",
            "steps": trainer.step,
            "seconds": round(trainer.seconds),
            "threads": torch.get_num_threads(),
            "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
        }
        if recipe.start:
            record["after"] = json.loads((recipe.start / TRAINING_FILE).read_text("utf-8"))
        write_atomically(output / TRAINING_FILE, (json.dumps(record, indent=2) + "\n").encode())
    return finished


def held_out_recall(reader: Reader, which: Which, *, facts: int = 8, dialogues: int = 32, seed: int = 0) -> float:
    """The share of questions about held-out dialogues that the memory alone answers."""
    rng = random.Random(f"held-out recall/{seed}")
    sampled = [sample_dialogue(rng, facts=facts, split="test") for _ in range(dialogues)]
    asked = [Asked(row, q.ask, q.answer) for row, dialogue in enumerate(sampled) for q in dialogue.questions]
    state = reader.remember(which, [dialogue.messages for dialogue in sampled])
    return sum(reader.recall(which, state, asked)) / len(asked)


@torch.no_grad()
def _round_to_bfloat16(model: "Qwen3ForCausalLM") -> None:
    for memory in attached(model).memories():
        for parameter in memory.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def main() -> None:
    """Trains one of the demo's adapters."""
    parser = argparse.ArgumentParser(prog="python -m deltamem.demo.adapters", description=__doc__)
    parser.add_argument("which", choices=get_args(Which))
    parser.add_argument("--refine", action="store_true", help="the second stage of multi, on from the package's")
    parser.add_argument("--output", type=Path, help=f"folder to write (default: {_ADAPTERS}/WHICH)")
    parser.add_argument("--backbone", type=Path, help="backbone folder (default: the package's)")
    parser.add_argument(
        "--checkpoint", type=Path, help="kept during the run, and resumed from (default: runs/WHICH.pt)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.refine and arguments.which != "multi":
        parser.error("only multi has a second stage")
    torch.set_num_threads(arguments.threads)
    # Products of the frozen weights in bfloat16 where the CPU has it: over twice as fast, and the state stays float32.
    torch.set_float32_matmul_precision("medium")
    train(
        arguments.which,
        arguments.output or _ADAPTERS / arguments.which,
        backbone=arguments.backbone,
        checkpoint=arguments.checkpoint or Path(f"runs/{arguments.which}{'-refined' * arguments.refine}.pt"),
        seed=arguments.seed + arguments.refine,
        recipe=REFINED if arguments.refine else None,
    )


if __name__ == "__main__":
    main()
