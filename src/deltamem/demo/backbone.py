"""The embedded backbone: a Qwen3 of about 1.3 million parameters, trained from scratch on the toy world.

``python -m deltamem.demo.backbone`` trains it on two CPU cores; :func:`load_backbone` loads the one in the package.
"""

import argparse
import json
import os
import platform
import random
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltamem.demo.incontext import evaluate_in_context, prompt_tokens
from deltamem.demo.lessons import WINDOW, LessonTokens
from deltamem.demo.tokenizer import build_tokenizer
from deltamem.train.episodes import TextBatch
from deltamem.train.passes import answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PEAK_RATE = 3e-3
WARM_UP = 100
BATCH_TOKENS = 4096
MAX_FACTS = 16
PLAIN_SHARE, GROWTH_SHARE = 0.3, 0.25
_POOL = 8
ASSETS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def load_backbone(dtype: str = "float32") -> tuple["Qwen3ForCausalLM", "PreTrainedTokenizerFast"]:
    """The package's backbone, in evaluation mode, and its tokenizer; never touches the network.

    Args:
        dtype: of its weights, which are kept in ``bfloat16``.
    """
    with as_file(files("deltamem.demo").joinpath("assets")) as folder:
        return load_folder(folder, dtype)


def load_folder(folder: Path, dtype: str = "float32") -> tuple["Qwen3ForCausalLM", "PreTrainedTokenizerFast"]:
    """The same for a folder written by training."""
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def backbone_config(tokenizer: "PreTrainedTokenizerFast") -> "Qwen3Config":
    """The backbone's shape."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


@dataclass(frozen=True)
class CurriculumStage:
    """What lessons are like at one point of the training."""

    max_facts: int
    plain: bool
    batch_tokens: int


def curriculum(progress: float) -> CurriculumStage:
    """The stage after a share of the training.

    Recall forms after a number of steps, whatever their size: so plain lessons in small batches come first.
    """
    if progress < PLAIN_SHARE:
        return CurriculumStage(max_facts=3, plain=True, batch_tokens=BATCH_TOKENS // 4)
    grown = (progress - PLAIN_SHARE) / GROWTH_SHARE
    return CurriculumStage(min(MAX_FACTS, 4 + int(grown * (MAX_FACTS - 4))), plain=False, batch_tokens=BATCH_TOKENS)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - WARM_UP) / max(1, steps - WARM_UP))).item())
    return PEAK_RATE * max(0.01, cosine)


def answer_loss(model: "Qwen3ForCausalLM", batch: TextBatch) -> tuple[Tensor, float]:
    """The weighted loss, and the share of first answer tokens predicted right.

    Logits are computed for weighted tokens only; padding is on the right, so the causal mask is mask enough.
    """
    found = answers(model, model.model(batch.ids, use_cache=False).last_hidden_state, batch)
    weights = batch.weights[:, 1:]
    begins = ((weights == 1) & (batch.weights[:, :-1] == 0))[weights > 0]
    right = (found.logits.argmax(-1) == found.targets)[begins].float().mean().item()
    return (found.losses() * found.weights).sum() / found.weights.sum(), right


def train(output: Path, *, steps: int, seed: int) -> float:
    """Train for ``steps`` batches, write a Hugging Face folder, and return the seconds it took.

    Resumes from ``output/checkpoint.pt`` if there is one.
    """
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = Qwen3ForCausalLM(backbone_config(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint = output / "checkpoint.pt"
    step, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, seconds = saved["step"], saved["seconds"]
    lessons = LessonTokens(tokenizer)
    start = time.monotonic() - seconds
    while step < steps:
        rng = random.Random(f"{seed}/{step}")
        stage = curriculum(step / steps)
        for batch in lessons.batches(
            rng, max_facts=stage.max_facts, plain=stage.plain, tokens=stage.batch_tokens, pool=_POOL
        ):
            loss, right = _update(model, optimizer, batch, learning_rate(step, steps))
            step += 1
            if step % 20 == 0:
                spent = time.monotonic() - start
                progress = f"step {step}/{steps}  loss {loss:.3f}  recall {right:.3f}  {spent:.0f} s"
                print(progress, flush=True)
        if step % 200 < 2 * _POOL or step >= steps:
            seconds = time.monotonic() - start
            weights, moments = model.state_dict(), optimizer.state_dict()
            torch.save({"model": weights, "optimizer": moments, "step": step, "seconds": seconds}, checkpoint)
            save_folder(model, tokenizer, output)
    return seconds


def _update(
    model: "Qwen3ForCausalLM", optimizer: torch.optim.Optimizer, batch: TextBatch, rate: float
) -> tuple[float, float]:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss, right = answer_loss(model, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), right


def save_folder(model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Write weights rounded to bfloat16, configuration and tokenizer; the model itself stays as it is."""
    from transformers import Qwen3ForCausalLM

    rounded = Qwen3ForCausalLM(model.config).bfloat16()
    rounded.load_state_dict(model.state_dict())
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def report(folder: Path, *, command: str, steps: int, threads: int, seconds: float) -> dict[str, object]:
    """What the backbone in ``folder`` can do, and what training it took."""
    model, tokenizer = load_folder(folder)
    return {
        "command": command,
        "steps": steps,
        "seconds": round(seconds),
        "threads": threads,
        "machine": {"cores": os.cpu_count(), "cpu": _cpu_name()},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(file.stat().st_size for name in ASSETS if (file := folder / name).is_file()),
        "accuracy": evaluate_in_context(model, tokenizer),
        "prompt_tokens": prompt_tokens(tokenizer),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Train the backbone, measure it, and write its files."""
    parser = argparse.ArgumentParser(prog="python -m deltamem.demo.backbone", description=__doc__)
    parser.add_argument("--steps", type=int, default=6200, help="batches of up to 4,096 tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/backbone"), help="folder to write, and to resume from"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=Path, help="where to write the measurements as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds = train(arguments.output, steps=arguments.steps, seed=arguments.seed)
    measured = report(
        arguments.output,
        command=f"python -m deltamem.demo.backbone --steps {arguments.steps} --seed {arguments.seed}",
        steps=arguments.steps,
        threads=arguments.threads,
        seconds=seconds,
    )
    text = json.dumps(measured, indent=2)
    print(text)
    if arguments.report:
        arguments.report.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
