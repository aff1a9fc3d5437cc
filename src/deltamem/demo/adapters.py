"""The demo's three adapters: how each is trained on the frozen backbone, and where they lie.

``python -m deltamem.demo.adapters multi`` trains one on one CPU core; :func:`load_demo_adapter` loads it.
"""

import argparse
import dataclasses
import json
import platform
import shlex
import sys
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from deltamem.adapters import load_adapter, save_adapter
from deltamem.attach import Attachment, attached
from deltamem.config import DeltaMemConfig
from deltamem.demo.backbone import load_backbone
from deltamem.demo.episodes import Mix
from deltamem.files import write_atomically

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

    from deltamem.train.recipe import Recipe

Which = Literal["token", "segment", "multi"]
TRAINING_FILE = "training.json"
_SOURCE = "deltamem.demo.training:"
_ADAPTERS = Path("src/deltamem/demo/assets/adapters")


@dataclass(frozen=True)
class Stage:
    """A training of an adapter: from scratch, or on from the adapter in the folder ``start``.

    Attributes:
        config: what the adapter is.
        mix: what its dialogues are made of.
        steps: updates.
        rate: the highest learning rate.
        start: the folder.
    """

    config: DeltaMemConfig
    mix: Mix
    steps: int
    rate: float = 5e-3
    start: Path | None = None


# They depart from the published defaults in three things. Their keep gate is one (``no_lambda``) and their write gate
# starts lower: what lets go of a little at every token has to learn to let go at few, and with the standard rule the
# multi-state adapter had 0.43 of four held-out facts after 1,000 steps, where this one had 0.85. A segment is the mean
# of its tokens and written once, so its write gate starts open. Larger initial heads make recall form sooner.
STAGES: dict[Which, Stage] = {
    "token": Stage(
        DeltaMemConfig(init_gain=0.5, update_rule="no_lambda", gate_bias=-2.5),
        Mix(max_facts=5),
        steps=3000,
    ),
    "segment": Stage(
        DeltaMemConfig(init_gain=1.0, update_rule="no_lambda", gate_bias=1.0, write="message"),
        Mix(max_facts=5, plain=0.12),
        steps=3000,
    ),
    "multi": Stage(
        DeltaMemConfig(init_gain=0.5, update_rule="no_lambda", gate_bias=-2.5, states=4),
        Mix(max_facts=10),
        steps=3500,
    ),
}

_REFINING: dict[str, Any] = {"plain": 0.0, "grown": 0.02, "queries": 6, "episodes": 20}


def _refined(which: Which, mix: Mix, steps: int) -> Stage:
    return Stage(STAGES[which].config, mix, steps, rate=3e-3, start=_ADAPTERS / which)


# A second stage: more facts and more questions a dialogue. Four states also see more dialogues that are asked about
# while their text is still there, which is what a memory that writes along disturbs.
REFINED: dict[Which, Stage] = {
    "token": _refined("token", Mix(max_facts=6, answered=0.2, **_REFINING), 2400),
    "segment": _refined("segment", Mix(max_facts=6, answered=0.2, **_REFINING), 2400),
    "multi": _refined("multi", Mix(max_facts=14, answered=0.4, **_REFINING), 4000),
}


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
    if which not in STAGES:
        raise ValueError(f"There is no demo adapter {which!r}; there are: {', '.join(STAGES)}.")
    with as_file(files("deltamem.demo").joinpath("assets", "adapters", which)) as folder:
        return load_adapter(model, folder, name or which)


def recipe_of(stage: Stage, folder: Path, *, seed: int = 0, control: bool = False) -> "Recipe":
    """The stage as a recipe of ``deltamem train``.

    Args:
        stage: what to train, and how.
        folder: where the run is kept.
        seed: of the dialogues and the initial weights.
        control: train the static control instead: every question meets another dialogue's memory, so that all but
            memory can be learned.
    """
    from deltamem.train.recipe import Recipe

    dialogues: dict[str, Any] = {"steps": stage.steps, "seed": seed, **dataclasses.asdict(stage.mix)}
    return Recipe.model_validate(
        {
            "backbone": {"factory": {"source": "deltamem.demo.backbone:load_backbone"}},
            "adapter": stage.config,
            "start": None if stage.start is None else str(stage.start),
            "data": {"source": _SOURCE + ("stranger_batches" if control else "training_batches"), "options": dialogues},
            "optimiser": {"learning_rate": stage.rate},
            "schedule": {"steps": stage.steps, "batch": 1, "warm_up": 0.0125},
            "evaluation": {
                "data": {"source": _SOURCE + "held_out_episodes", "options": {"facts": 8}},
                "batch": 16,
            },
            "logging": {"every": 50},
            "output": {"folder": str(folder), "save_every": 200, "keep": 1},
            "seed": seed,
        }
    )


def train(stage: Stage, folder: Path, output: Path, *, command: str, seed: int = 0, control: bool = False) -> bool:
    """Trains an adapter and writes its folder; false if a signal stopped it first.

    Args:
        stage: what to train, and how.
        folder: where the run is kept, and resumed from.
        output: the folder to write.
        command: what the record says it was trained with.
        seed: of the dialogues and the initial weights.
        control: train the static control instead.
    """
    from deltamem.train.run import METRICS_FILE, run

    outcome = run(recipe_of(stage, folder, seed=seed, control=control), resume=folder.exists())
    if outcome.signal:
        return False
    model, _ = load_backbone()
    load_adapter(model, folder)
    _round_to_bfloat16(model)
    save_adapter(model, output)
    record: dict[str, Any] = {
        "command": command,
        "steps": outcome.steps,
        "seconds": round(json.loads((folder / METRICS_FILE).read_text("utf-8"))["seconds"]),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
    }
    if stage.start:
        record["after"] = json.loads((stage.start / TRAINING_FILE).read_text("utf-8"))
    write_atomically(output / TRAINING_FILE, (json.dumps(record, indent=2) + "\n").encode())
    return True


@torch.no_grad()
def _round_to_bfloat16(model: "Qwen3ForCausalLM") -> None:
    for memory in attached(model).memories():
        for parameter in memory.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def main() -> None:
    """Trains one of the demo's adapters."""
    parser = argparse.ArgumentParser(prog="python -m deltamem.demo.adapters", description=__doc__)
    parser.add_argument("which", choices=get_args(Which))
    parser.add_argument("--refine", action="store_true", help="the second stage, on from the package's adapter")
    parser.add_argument("--control", action="store_true", help="the static control, for deltamem eval --static-adapter")
    parser.add_argument("--output", type=Path, help=f"folder to write (default: {_ADAPTERS}/WHICH)")
    parser.add_argument("--run", type=Path, help="folder of the run, resumed from (default: runs/WHICH)")
    parser.add_argument("--steps", type=int, help="updates, if not the stage's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.refine and arguments.control:
        parser.error("the second stage is no control's")
    if arguments.control and not arguments.output:
        parser.error("--control needs --output: the package has no control")
    torch.set_num_threads(arguments.threads)
    # Products of the frozen weights in bfloat16 where the CPU has it: over twice as fast, and the state stays float32.
    torch.set_float32_matmul_precision("medium")
    stage = (REFINED if arguments.refine else STAGES)[arguments.which]
    kind = "-refined" * arguments.refine + "-control" * arguments.control
    train(
        dataclasses.replace(stage, steps=arguments.steps or stage.steps),
        arguments.run or Path(f"runs/{arguments.which}{kind}"),
        arguments.output or _ADAPTERS / arguments.which,
        command=shlex.join(["python", "-m", "deltamem.demo.adapters", *sys.argv[1:]]),
        seed=arguments.seed + arguments.refine,
        control=arguments.control,
    )


if __name__ == "__main__":
    main()
