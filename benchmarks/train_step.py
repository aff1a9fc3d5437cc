"""One training step on the embedded backbone with 1,024 written tokens, against the same step with the token loop.

    python benchmarks/train_step.py --json benchmarks/results/train_step.json --check

Two passages of 512 tokens, the backbone's window, are written, four questions read from the memory, and the four-state
adapter updated: forward, backward, clipping, AdamW. The backbone is in bfloat16 under autocast, memory and adapter in
float32, as the embedded adapters are trained. The loop is the scan's definition in PyTorch. The sides take turns, and
each round gives one ratio; the figures are medians. Times are this process's CPU time on one thread, which other work
on the machine lengthens less than wall time. Peak memory is what two steps hold at most in a fresh process, beyond what
it held after a short one.
"""

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import deltamem.memory
from common import command_line, machine, tell, timed
from deltamem.attach import attach, attached
from deltamem.demo.adapters import COURSES
from deltamem.demo.backbone import load_backbone
from deltamem.demo.episodes import EpisodeSampler, Mix
from deltamem.ops import scan
from deltamem.train import Episode, EpisodeBatch, EpisodeObjective, Text, collate
from deltamem.train.attention import attend
from long_history import peak_mib

PASSAGE, PASSAGES, QUERIES = 512, 2, 4
FLOOR = 8.0
SIDES = ("compiled", "loop")
Step = Callable[[], float]


def main() -> int:
    parser = command_line(__doc__, f"exit 1 below {FLOOR}x")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="only print where the time of a step goes")
    parser.add_argument(
        "--attention", action="store_true", help="only print what one layer's attention takes by kernel"
    )
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.peak))
        return 0
    if options.profile:
        print(where_time_goes())
        return 0
    if options.attention:
        print(attention_times(options.rounds))
        return 0
    report = measure(options.rounds)
    below = [f"a step is {report['step_x']:.1f}x, below {FLOOR}x"] if report["step_x"] < FLOOR else []
    return tell(report, options, below, show)


def show(report: dict[str, Any]) -> None:
    print(f"step {report['compiled_ms']:.0f} ms, with the loop {report['loop_ms']:.0f} ms: {report['step_x']:.1f}x")
    print(f"peak memory {report['compiled_mib']:.0f} MiB, with the loop {report['loop_mib']:.0f} MiB")


def measure(rounds: int) -> dict[str, Any]:
    """The figures of both sides."""
    step = training_step()
    with looping():
        loss = step()
    torch.testing.assert_close(training_step()(), loss, rtol=1e-2, atol=0)  # the same, to bfloat16
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        compiled = statistics.median(timed(step) for _ in range(3))
        with looping():
            times.append((compiled, timed(step)))
    return {
        "step_x": round(statistics.median(loop / compiled for compiled, loop in times), 2),
        "compiled_ms": round(1000 * statistics.median(compiled for compiled, _ in times), 1),
        "loop_ms": round(1000 * statistics.median(loop for _, loop in times), 1),
        **{f"{side}_mib": peak_of(side) for side in SIDES},
        "written_tokens": PASSAGE * PASSAGES,
        "adapter": json.loads(COURSES["multi"].config.to_json()),
        "rounds": rounds,
        "floor": FLOOR,
        "load": os.getloadavg(),
        "command": "python benchmarks/train_step.py --json benchmarks/results/train_step.json",
        "machine": machine(),
    }


def training_step(passage: int = PASSAGE) -> Step:
    """A function that takes one step of the four-state adapter and gives its loss."""
    torch.manual_seed(0)
    model, tokenizer = load_backbone("bfloat16")
    attach(model, COURSES["multi"].config)
    parameters = [p for memory in attached(model).memories() for p in memory.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    objective = EpisodeObjective(model)
    told = told_batch(EpisodeSampler(tokenizer, Mix(max_facts=4, answered=0), steps=1), passage)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(told).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    return step


def told_batch(sampler: EpisodeSampler, passage: int) -> EpisodeBatch:
    """One episode of the toy world: passages filled to the token with dialogues, and questions about them."""
    rng = random.Random(0)
    episodes = [sampler.episode(rng, 4) for _ in range(40)]
    tokens = [
        token for episode in episodes for text in episode.history for token in zip(*vars(text).values(), strict=True)
    ]
    parts = [tokens[i * passage : (i + 1) * passage] for i in range(PASSAGES)]
    history = tuple(Text(*zip(*part, strict=True)) for part in parts)
    queries = tuple(query for episode in episodes for query in episode.queries)[:QUERIES]
    return collate([Episode(history, queries)], sampler.tokens.pad_id)


@contextmanager
def looping() -> Iterator[None]:
    """Within the block memories walk their tokens with the scan's definition, in PyTorch."""
    deltamem.memory.scan = functools.partial(scan, backend="reference")
    try:
        yield
    finally:
        deltamem.memory.scan = scan


def peak_of(side: str) -> float:
    """MiB that two steps of one side need at most, in a process that has done nothing else."""
    command = [sys.executable, __file__, "--peak", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(side: str) -> float:
    training_step(passage=32)()  # loads and compiles what any step needs
    step = training_step()
    with looping() if side == "loop" else nullcontext():
        return peak_mib(lambda: (step(), step()))


def attention_times(rounds: int) -> str:
    """Forward and backward of one layer's attention of the embedded backbone, by kernel, which take turns."""
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        for rows, length in ((1, 512), (20, 265), (80, 24)):
            shapes = ((rows, length, heads, 32) for heads in (4, 2, 2))
            inputs = tuple(torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes)
            times: dict[str, list[float]] = {name: [] for name in KERNELS}
            for _ in range(rounds + 1):
                for name, kernel in KERNELS.items():
                    times[name].append(timed(functools.partial(there_and_back, kernel, inputs)))
            shown = "  ".join(f"{name} {1000 * statistics.median(each[1:]):.1f}" for name, each in times.items())
            lines.append(f"{str(dtype)[6:]:9} {rows:3} x {length:3} tokens, ms: {shown}")
    return "\n".join(lines)


def there_and_back(kernel: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    kernel(*inputs).sum().backward()


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Product, mask, softmax and product over the whole square, as transformers' ``eager`` does."""
    key, value = (each.repeat_interleave(2, 1) for each in (key, value))
    later = torch.full(query.shape[2:3] * 2, -torch.inf, dtype=query.dtype).triu(1)
    scores = query @ key.transpose(-1, -2) * 32**-0.5 + later
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's kernel, as transformers' ``sdpa`` calls it."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What training uses with products in bfloat16, for up to 2,048 heads times tokens."""
    return attend(query, key, value, 32**-0.5)


KERNELS = {"plain": plain, "fused": fused, "blocks": blocks}


def where_time_goes() -> str:
    """A table of the operators of three steps by their own CPU time."""
    step = training_step()
    step(), step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(3):
            step()
    return str(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    sys.exit(main())
