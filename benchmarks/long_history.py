"""Peak memory and time of one training step against the length of what is written, on the embedded backbone.

    python benchmarks/long_history.py --json benchmarks/results/long_history.json --check

One history is written by the four-state adapter, one question read from its memory, and the gradient taken: in one
pass; in chunks of 512 tokens that are recomputed in the backward pass; and the same with the gradient cut off four
chunks back.
Each point is a fresh process with one thread. Peak memory is what its step holds at most beyond what the process held
before it, the model among it; time is the process's CPU time, which other work on the machine lengthens less than wall
time. Attention over one pass grows with the square of the length, and its positions go beyond the 512 that the backbone
was trained on: that side is for comparison only.
"""

import ctypes
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import command_line, machine, tell, timed
from deltamem.attach import attach
from deltamem.demo.adapters import COURSES
from deltamem.demo.backbone import load_backbone
from deltamem.train import Episode, EpisodeBatch, EpisodeObjective, ObjectiveOptions, Text, Writing, collate

LENGTHS = (1024, 2048, 4096, 8192, 16384)
CHUNK, CUT = 512, 4
WAYS = {
    "one_pass": Writing(),
    "recomputed": Writing(chunk=CHUNK, recompute=True),
    "truncated": Writing(chunk=CHUNK, recompute=True, truncate=CUT),
}
CEILINGS = {"recomputed": 0.5, "truncated": 0.5}
WARM_UP = CHUNK
_MMAP_THRESHOLD = -3  # of <malloc.h>


def main() -> int:
    options = command_line(__doc__, f"exit 1 where memory grows more than {CEILINGS} of length").parse_args()

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    report = measure()
    above = [f"{way}: memory grew {report['growth'][way]} of length" for way in CEILINGS if grown_too_much(report, way)]
    return tell(report, options, above, show)


def measure() -> dict[str, Any]:
    """Every way at every length, and for each way how memory grows: 1 is in step with the length."""
    points: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as fresh_process:
        for length, way in itertools.product(LENGTHS, WAYS):
            points[way][str(length)] = figures = fresh_process.apply(point, (WAYS[way], length))
            print(length, way, figures, file=sys.stderr)
    first, last = str(LENGTHS[0]), str(LENGTHS[-1])
    growth = {
        way: round(of[last]["peak_mib"] / of[first]["peak_mib"] / (LENGTHS[-1] / LENGTHS[0]), 3)
        for way, of in points.items()
    }
    return {
        "points": points,
        "growth": growth,
        "ceilings": CEILINGS,
        "chunk": CHUNK,
        "truncate": CUT,
        "load": os.getloadavg(),
        "command": "python benchmarks/long_history.py --json benchmarks/results/long_history.json",
        "machine": machine(),
    }


def grown_too_much(report: dict[str, Any], way: str) -> bool:
    grown: float = report["growth"][way]
    return grown > CEILINGS[way]


def point(writing: Writing, length: int) -> dict[str, float]:
    """Peak MiB and CPU seconds of a step, after a short one that compiles and allocates what any step needs."""
    torch.manual_seed(0)
    model, _ = load_backbone()
    attach(model, COURSES["multi"].config)
    objective = EpisodeObjective(model, ObjectiveOptions(writing=writing))

    def step(batch: EpisodeBatch) -> None:
        objective(batch).loss.backward()

    step(told(WARM_UP, model.config.vocab_size))
    batch = told(length, model.config.vocab_size)
    seconds: list[float] = []
    peak = peak_mib(lambda: seconds.append(timed(lambda: step(batch))))
    return {"peak_mib": peak, "seconds": round(seconds[0], 2)}


def told(length: int, vocabulary: int) -> EpisodeBatch:
    """One history of random tokens; what they say does not change what they cost."""
    ids = tuple(torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(0)).tolist())
    history = Text(ids, (0.0,) * length, (0,) * length)
    query = Text(ids[:32], (0.0,) * 31 + (1.0,), (0,) * 32)
    return collate([Episode((history,), (query,))], 0)


def peak_mib(run: Callable[[], object]) -> float:
    """MiB of resident memory that a call needs at most, beyond what the process held before it (Linux, glibc only)."""
    # Freed tensors go back to the system at once: what the allocator would keep is not what the step needs.
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status_kib("VmRSS")
    run()
    return round((_status_kib("VmHWM") - before) / 1024, 1)


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def show(report: dict[str, Any]) -> None:
    print(f"{'tokens':>8}" + "".join(f"{way:>24}" for way in WAYS))
    for length in LENGTHS:
        of = [report["points"][way][str(length)] for way in WAYS]
        print(f"{length:8}" + "".join(f"{p['peak_mib']:14.0f} MiB{p['seconds']:5.1f} s" for p in of))
    print("growth", report["growth"])


if __name__ == "__main__":
    sys.exit(main())
