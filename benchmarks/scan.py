"""How much faster the compiled scan is than the token loop in PyTorch, side by side on one thread, R=8.

    python benchmarks/scan.py --json benchmarks/results/scan.json --check

Times are this process's CPU time, which other work on the machine does not lengthen as it does wall time (a loop of
seconds is interrupted, a kernel of microseconds is not); the sides take turns, and the figures are medians.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from common import command_line, machine, tell, timed
from deltamem.ops import scan

RANK = 8
SHAPES = {  # name: B, T, N, with gradients?, rounds
    "forward": (1, 2048, 1, False, 5),
    "forward_backward": (1, 2048, 1, True, 3),
    "batched": (16, 512, 4, False, 5),
}
FLOORS = {"forward_x": 300, "forward_backward_x": 500, "batched_x": 20}
BACKENDS = ("reference", "chunked", "cpu")


def main() -> int:
    options = command_line(__doc__, f"exit 1 below the floors {FLOORS}").parse_args()

    torch.set_num_threads(1)
    report: dict[str, Any] = {"rank": RANK, "machine": machine(), "cases": {}, "floors": FLOORS}
    for name, (batch, length, states, gradients, rounds) in SHAPES.items():
        ms = compare(batch, length, states, gradients, rounds)
        report["cases"][name] = {"B": batch, "T": length, "N": states, "gradients": gradients, "ms": ms}
        report[f"{name}_x"] = round(ms["reference"] / ms["cpu"], 1)
        report[f"{name}_chunked_x"] = round(ms["reference"] / ms["chunked"], 1)
    report["decode_us"] = decode_us()

    below = [f"{key} is {report[key]}, below {floor}" for key, floor in FLOORS.items() if report[key] < floor]
    return tell(report, options, below, show)


def compare(batch: int, length: int, states: int, gradients: bool, rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each backend over interleaved rounds; the quick ones are run more often a round."""
    inputs = [x.requires_grad_(gradients) for x in arguments(batch, length, states)]
    runs = {backend: step(inputs, backend, gradients) for backend in BACKENDS}
    for backend in BACKENDS[1:]:
        runs[backend]()  # compiles
    seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds):
        for backend, run in runs.items():
            seconds[backend] += [timed(run) for _ in range({"reference": 1, "chunked": 1, "cpu": 20}[backend])]
    return {backend: round(1000 * statistics.median(times), 4) for backend, times in seconds.items()}


def step(inputs: list[Tensor], backend: str, gradients: bool) -> Callable[[], Any]:
    chosen = None if backend == "cpu" else backend  # the default on a CPU, as a user calls it

    def forward() -> Any:
        with torch.no_grad():
            return scan(*inputs, backend=chosen)

    def forward_backward() -> Any:
        reads, final = scan(*inputs, backend=chosen)
        return torch.autograd.grad(reads.sum() + final.sum(), inputs)

    return forward_backward if gradients else forward


def arguments(batch: int, length: int, states: int) -> list[Tensor]:
    """q, k, v, keep, erase, write [B, T, N, R] and a state [B, N, R, R], as a memory has them."""
    torch.manual_seed(0)
    shape = (batch, length, states, RANK)
    q, k = (normalize(torch.randn(shape), dim=-1) for _ in range(2))
    write = torch.sigmoid(torch.randn(shape) - 1.5)
    return [q, k, torch.randn(shape), 1 - write, write.clone(), write, torch.zeros(batch, states, RANK, RANK)]


def decode_us() -> float:
    """Microseconds of one call for one token, B = N = 1, without gradients."""
    run = step(arguments(1, 1, 1), "cpu", False)
    return round(1e6 * statistics.median(timed(run) for _ in range(3000)), 1)


def show(report: dict[str, Any]) -> None:
    print(f"{'':17}{'B':>4}{'T':>6}{'N':>3}{'loop':>11}{'chunked':>17}{'compiled':>19}")
    for name, case in report["cases"].items():
        ms = case["ms"]
        chunked, compiled = f"{report[f'{name}_chunked_x']:,.1f}x", f"{report[f'{name}_x']:,.0f}x"
        print(
            f"{name:17}{case['B']:4}{case['T']:6}{case['N']:3}{ms['reference']:8.1f} ms"
            f"{ms['chunked']:8.2f} ms {chunked:>5}{ms['cpu']:8.3f} ms {compiled:>7}"
        )
    print(f"one token, one state: {report['decode_us']} µs a call")
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))


if __name__ == "__main__":
    sys.exit(main())
