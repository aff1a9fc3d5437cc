"""How much of a story's beginning a real pretrained model remembers: of a TinyStories Llama, or any causal model.

    python benchmarks/stories.py MODEL_FOLDER --json benchmarks/results/stories.json

The model samples its own stories, at temperature 0.8. The first 80 tokens of each go to memory, and the rest is
predicted without them. The same adapter is trained once more on other stories' memories (the static control): it can
learn everything but memory. Losses are on held-out stories; intervals are 95 % of a bootstrap over groups of eight.
"""

import argparse
import json
import random
import statistics
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import deltamem
from common import command_line, machine, tell
from deltamem.train.checkpoints import CONTROL, last_checkpoint
from deltamem.train.episodes import Episode, Text, collate
from deltamem.train.measure import Condition, Tally, add, mean_loss, tally
from deltamem.train.recipe import Recipe
from deltamem.train.run import run
from deltamem.train.strangers import turn_rows

WRITTEN, LENGTH, GROUP, TEMPERATURE = 80, 180, 8, 0.8


class Stories(Dataset[Episode]):
    """Stories of a file, the beginning as history, in segments of so many tokens, and the rest as the query."""

    def __init__(self, path: str, first: int, count: int, segment: int = WRITTEN) -> None:
        stories = load_file(path)["stories"][first : first + count]
        self.episodes = [episode(story[story >= 0].tolist(), segment) for story in stories]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]


def stories(tokenizer: Any, **options: Any) -> Stories:
    """The data source that the recipe names."""
    return Stories(**options)


def episode(ids: list[int], segment: int = WRITTEN) -> Episode:
    told, rest = ids[:WRITTEN], ids[WRITTEN:]
    history = Text(tuple(told), (0.0,) * len(told), tuple(place // segment for place in range(len(told))))
    return Episode((history,), (Text(tuple(rest), (1.0,) * len(rest), (0,) * len(rest)),))


@torch.no_grad()
def sample_stories(folder: str, count: int, path: Path, seed: int, temperature: float = TEMPERATURE) -> None:
    """Writes stories ``[count, LENGTH]``, -1 after the end, that the model tells."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), load_tokenizer(folder)
    torch.manual_seed(seed)
    rows: list[torch.Tensor] = []
    while len(rows) < count:
        start = torch.full((256, 1), tokenizer.bos_token_id)
        told = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
            max_new_tokens=LENGTH - 1, min_new_tokens=WRITTEN + 20, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        told = torch.nn.functional.pad(told, (0, LENGTH - told.shape[1]), value=tokenizer.eos_token_id)
        ended = (told == tokenizer.eos_token_id).cumsum(1) > 1
        rows += told.masked_fill(ended, -1).to(torch.int32)
        print(f"{len(rows)} of {count} stories", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"stories": torch.stack(rows[:count])}, path)


def load_tokenizer(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def recipe_of(options: argparse.Namespace, path: Path, folder: Path) -> Recipe:
    def part(first: int, count: int) -> dict[str, Any]:
        return {"source": "stories:stories", "options": {"path": str(path), "first": first, "count": count}}

    return Recipe.model_validate(
        {
            "backbone": {"model": options.model, "dtype": "float32"},
            "adapter": {
                "states": options.states, "heads": options.heads.split(","), "init_gain": 0.5,
                "update_rule": options.rule, "gate_bias": options.gate_bias,
            },
            "data": part(options.held_out, options.stories),
            "objective": json.loads(options.objective),
            "optimiser": {"learning_rate": options.rate},
            "schedule": {"steps": options.steps, "batch": options.batch, "micro_batch": options.batch, "warm_up": 0.02},
            "evaluation": {
                "data": part(0, options.held_out), "episodes": options.held_out, "batch": 32, "control": True,
            },
            "logging": {"every": 100},
            "output": {"folder": str(folder), "save_every": 1000, "keep": 1},
            "seed": options.seed,
        }
    )  # fmt: skip


def measure(model: Any, held_out: Dataset[Episode], pad_id: int, *, others: bool, condition: Condition) -> list[Tally]:
    """The sums of each group of held-out stories."""
    groups = [[held_out[i] for i in range(start, start + GROUP)] for start in range(0, len(held_out), GROUP)]
    batches = [collate(group, pad_id) for group in groups]
    return [tally(model, turn_rows(batch) if others else batch, condition) for batch in batches]


def shares(losses: dict[str, list[Tally]], chosen: list[int]) -> dict[str, float]:
    """Losses and shares of the gap over a choice of groups."""
    mean = {name: mean_loss(add([sums[i] for i in chosen])) for name, sums in losses.items()}
    gap = mean["nothing"] - mean["full"]
    return mean | {
        "recovered_share": (mean["nothing"] - mean["own"]) / gap,
        "against_other": (mean["other"] - mean["own"]) / gap,
        "memory_share": (mean["static"] - mean["own"]) / gap,
    }


def compared(
    model: Any, folder: Path, held_out: Dataset[Episode], pad_id: int, seed: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Losses and shares of a run with its static control on held-out episodes, and their 95 % intervals.

    Args:
        model: the bare backbone; it gets both adapters.
        folder: the run.
        held_out: the episodes.
        pad_id: fills up rows.
        seed: of the bootstrap.
    """
    control = last_checkpoint(folder / CONTROL)
    assert control is not None
    deltamem.load_adapter(model, folder, "own")
    losses = {
        "nothing": measure(model, held_out, pad_id, others=False, condition=Condition.NOTHING),
        "full": measure(model, held_out, pad_id, others=False, condition=Condition.FULL),
        "own": measure(model, held_out, pad_id, others=False, condition=Condition.MEMORY),
        "other": measure(model, held_out, pad_id, others=True, condition=Condition.MEMORY),
    }
    deltamem.load_adapter(model, control, "static")
    losses["static"] = measure(model, held_out, pad_id, others=True, condition=Condition.MEMORY)
    groups = range(len(losses["own"]))
    rng = random.Random(seed)
    draws = [shares(losses, rng.choices(groups, k=len(groups))) for _ in range(1000)]
    figures = shares(losses, list(groups))
    intervals = {key: [round(q, 4) for q in ends(sorted(draw[key] for draw in draws))] for key in figures}
    return {key: round(value, 4) for key, value in figures.items()}, intervals


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("model", help="folder of a pretrained causal model")
    parser.add_argument("--stories", type=int, default=32_000, help="to train on; no story comes twice by default")
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--states", type=int, default=4)
    parser.add_argument("--heads", default="q,o")
    parser.add_argument("--rule", default="no_lambda")
    parser.add_argument("--gate-bias", type=float, default=-2.5)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--objective", default="{}", help="fields of ObjectiveOptions as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/stories"), help="where the runs are kept and resumed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")

    started = time.monotonic()
    name = Path(options.model).name
    path = options.runs / f"{name}-{options.held_out + options.stories}-{options.seed}.safetensors"
    if not path.exists():
        sample_stories(options.model, options.held_out + options.stories, path, options.seed)
    chosen = {key: str(value) for key, value in vars(options).items() if key not in ("json", "runs", "model")}
    folder = options.runs / f"{name}-{zlib.crc32(repr(chosen).encode()):08x}"
    run(recipe_of(options, path, folder), resume=folder.exists())

    held_out = Stories(str(path), 0, options.held_out)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    figures, intervals = compared(model, folder, held_out, load_tokenizer(options.model).eos_token_id, options.seed)
    report = {
        "model": name,
        "options": chosen,
        "figures": figures,
        "intervals": intervals,
        "seconds": round(time.monotonic() - started),
        "machine": machine(),
    }
    tell(report, options)


def ends(values: list[float]) -> tuple[float, float]:
    """The middle 95 %."""
    cuts = statistics.quantiles(values, n=40)
    return cuts[0], cuts[-1]


if __name__ == "__main__":
    main()
