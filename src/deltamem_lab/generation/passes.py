"""One generation, timed: the prompt is read in one pass, then exactly so many tokens are taken greedily."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deltamem.attach.cache import PAST
from deltamem_lab.generation.sides import Side
from deltamem_lab.peak import PeakMemory


class Seconds(NamedTuple):
    """How long the parts of a generation took.

    Attributes:
        prefill: reading the prompt, and taking the first token.
        decode: taking the others, a pass of one token each.
    """

    prefill: float
    decode: float


class Peaks(NamedTuple):
    """The most bytes a generation held beyond what was held before it; ``None`` where that is not measured.

    Attributes:
        prefill: while the prompt was read.
        generate: at any time.
    """

    prefill: int | None
    generate: int | None


def time_generation(side: Side, ids: Tensor, tokens: int, *, all_logits: bool) -> Seconds:
    """Times one generation: by ``perf_counter``, on CUDA by events.

    Args:
        side: what generates.
        ids: the prompt ``[1, T]``.
        tokens: how many tokens are generated; no token ends it sooner.
        all_logits: whether the prompt's pass computes the logits of all its tokens, and not of the last alone.
    """
    with side.on():
        steps = greedy(side, ids, tokens, all_logits=all_logits)
        begun = _mark(ids.device)
        next(steps)
        read = _mark(ids.device)
        for _ in steps:
            pass
        done = _mark(ids.device)
    return Seconds(_between(begun, read), _between(read, done))


def measure_peaks(side: Side, ids: Tensor, tokens: int, memory: PeakMemory, *, all_logits: bool) -> Peaks:
    """Generates as :func:`time_generation` does, and measures memory instead."""
    with side.on(), memory.exact():
        memory.start()
        steps = greedy(side, ids, tokens, all_logits=all_logits)
        next(steps)
        prefill = memory.increase()
        for _ in steps:
            pass
        return Peaks(prefill, memory.increase())


@torch.no_grad()
def greedy(side: Side, ids: Tensor, tokens: int, *, all_logits: bool) -> Iterator[Tensor]:
    """Yields each generated token ``[1, 1]`` as soon as it is known; on CUDA, as soon as it is asked for."""
    cache = side.new_cache(ids)
    keep = 0 if all_logits else 1
    token = ids
    for place in range(tokens):
        logits = side.model(token, **{PAST: cache}, use_cache=True, logits_to_keep=1 if place else keep).logits
        token = logits[:, -1:].argmax(-1)
        del logits
        yield token


def _mark(device: torch.device) -> Any:
    """A moment: of the clock, or of the device's stream."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between(begun: Any, done: Any) -> float:
    if isinstance(begun, float):
        return float(done) - begun
    done.synchronize()
    return float(begun.elapsed_time(done)) / 1000
