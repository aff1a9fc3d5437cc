"""What a memory costs its backbone: an adapted beside a bare random Qwen3, on one thread, with shared weights.

    python benchmarks/overhead.py --json benchmarks/results/overhead.json --check

The backbones take turns (bare, adapted, adapted, bare), so that a machine that slows down does so for both. The
figures are the medians of their times, and the ratio is that of the medians. Times are this process's CPU time, which
other work on the machine lengthens less than wall time.
"""

import copy
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

import deltamem
from common import command_line, machine, tell, timed

PROMPT = 512
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3_0.6b": {
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
    },
    "small": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 384,
    },
}
ROUNDS = {"qwen3_0.6b": {"prefill": 12, "decode": 40}, "small": {"prefill": 40, "decode": 200}}
CEILINGS = {"prefill_x": 1.03, "decode_x": 1.04}
Work = Callable[[], Any]


def main() -> int:
    options = command_line(__doc__, f"exit 1 above the ceilings {CEILINGS}").parse_args()

    torch.set_num_threads(1)
    report: dict[str, Any] = {"prompt": PROMPT, "machine": machine(), "ceilings": CEILINGS}
    for name, shape in SHAPES.items():
        report[name] = {"shape": shape} | measure(shape, ROUNDS[name])
    for figure in ("prefill", "decode"):
        report[f"{figure}_x"] = report["qwen3_0.6b"][figure]["x"]

    above = [f"{key} is {report[key]}, above {ceiling}" for key, ceiling in CEILINGS.items() if report[key] > ceiling]
    return tell(report, options, above, show)


@torch.no_grad()
def measure(shape: dict[str, Any], rounds: dict[str, int]) -> dict[str, Any]:
    """Prefill of 512 tokens, and one decoded token with as many in the cache."""
    bare, adapted = pair(shape)
    ids = torch.randint(1000, (1, PROMPT))
    caches = {id(model): model(ids).past_key_values for model in (bare, adapted)}  # also compiles the scan

    def prefill(model: PreTrainedModel) -> Work:
        return lambda: model(ids, logits_to_keep=1)

    def decode(model: PreTrainedModel) -> Work:
        return lambda: model(ids[:, :1], past_key_values=caches[id(model)])

    return {
        figure: compare(work(bare), work(adapted), rounds[figure])
        for figure, work in (("prefill", prefill), ("decode", decode))
    }


def pair(shape: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A bare backbone, and one with the same weights (the same memory, too) and a default adapter."""
    torch.manual_seed(0)
    bare = Qwen3ForCausalLM(Qwen3Config(vocab_size=1000, **shape)).eval()
    adapted = copy.deepcopy(bare, {id(parameter): parameter for parameter in bare.parameters()})
    deltamem.attach(adapted)
    return bare, adapted


def compare(bare: Work, adapted: Work, rounds: int) -> dict[str, float]:
    """Median milliseconds of both, and their ratio."""
    for _ in range(2):
        bare(), adapted()
    times = [[timed(run) for run in (bare, adapted, adapted, bare)] for _ in range(rounds)]
    bare_ms = 1000 * statistics.median(t for a, _, _, d in times for t in (a, d))
    adapted_ms = 1000 * statistics.median(t for _, b, c, _ in times for t in (b, c))
    return {
        "bare_ms": round(bare_ms, 3),
        "adapted_ms": round(adapted_ms, 3),
        "x": round(adapted_ms / bare_ms, 4),
        "rounds": rounds,
    }


def show(report: dict[str, Any]) -> None:
    print(f"{'':12}{'':9}{'bare':>12}{'adapted':>14}{'ratio':>9}")
    for name in SHAPES:
        for figure in ("prefill", "decode"):
            case = report[name][figure]
            print(f"{name:12}{figure:9}{case['bare_ms']:9.2f} ms{case['adapted_ms']:11.2f} ms{case['x']:8.3f}x")
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))


if __name__ == "__main__":
    sys.exit(main())
