"""The efficiency protocol: prompts × generated tokens, all sides in turn, prefill and decoding apart.

After the published ``generation_tps_benchmark``: a filler sentence repeated to the prompt's length, one row, greedy, a
warm-up and some timed runs. Its measures keep their names: ``prefill_only``, ``decode_only`` (all tokens but the first,
which the prefill gives), and ``full_generate``, which includes the prefill. It differs in that all sides run in one
process and take turns, so that what else the machine does meets them alike; that one generation gives all three
measures; and that memory is measured in the warm-up, where nothing is timed.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltamem.observe import positions
from deltamem_lab.generation.passes import Peaks, Seconds, measure_peaks, time_generation
from deltamem_lab.generation.sides import Kind, Side
from deltamem_lab.peak import PeakMemory

FILLER = "The committee met again on Tuesday to discuss the budget, the schedule and the remaining open questions. "
MEASURES = ("prefill_only", "decode_only", "full_generate")
_SENTENCE = 24


@dataclass(frozen=True)
class Case:
    """A side at a pair of lengths.

    Attributes:
        prompt: tokens read.
        decode: tokens generated.
        side: ``bare``, ``delta-mem`` or ``lora``.
        peaks: of its warm-up.
        seconds: of each timed run.
        times_bare: by measure, the median over the runs of its time by the bare backbone's in the same turn.
    """

    prompt: int
    decode: int
    side: Kind
    peaks: Peaks
    seconds: tuple[Seconds, ...]
    times_bare: dict[str, float]

    @property
    def tokens_per_second(self) -> dict[str, float]:
        """By measure: prompt tokens read, or tokens generated, by the mean of the runs' seconds."""
        counts = dict(zip(MEASURES, (self.prompt, self.decode - 1, self.decode), strict=True))
        return {name: counts[name] / statistics.fmean(_taken(run)[name] for run in self.seconds) for name in MEASURES}


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        cases: by lengths, then by side.
        skipped: pairs of lengths beyond the window.
        window: how many tokens the backbone has positions for, if it says so.
        unmeasured: why there are no peaks; empty where there are.
    """

    cases: tuple[Case, ...]
    skipped: tuple[tuple[int, int], ...]
    window: int | None
    unmeasured: str


def measure_generation(
    sides: Sequence[Side],
    prompts: Sequence[int],
    decodes: Sequence[int],
    *,
    tokenizer: Any = None,
    runs: int = 3,
    all_logits: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Measures every side at every pair of lengths that fits the window.

    Args:
        sides: the bare backbone first.
        prompts: tokens read.
        decodes: tokens generated, two at least.
        tokenizer: of the filler sentence; without one it is a sequence of random tokens.
        runs: timed runs a pair, after one warm-up.
        all_logits: whether the prompt's pass computes the logits of all its tokens, and not of the last alone.
        tell: called with a line before each pair.

    Raises:
        ValueError: a number is too small, or no pair of lengths fits.
    """
    for name, values, least in (("prompt", prompts, 1), ("decode", decodes, 2), ("runs", [runs], 1)):
        if not values or min(values) < least:
            raise ValueError(f"{name} must be at least {least}, not {min(values, default='nothing')}.")
    model = sides[0].model
    window = positions(model)
    pairs = list(itertools.product(prompts, decodes))
    fitting = [pair for pair in pairs if window is None or sum(pair) <= window]
    if not fitting:
        raise ValueError(f"No pair of lengths fits the window of {window:,} tokens; give shorter prompts.")
    memory = PeakMemory(model.device)
    shortest = filler(fitting[0][0], model, tokenizer)
    for side in sides:
        # What any generation needs is loaded and compiled here, and is not part of a peak.
        time_generation(side, shortest, 2, all_logits=all_logits)
    cases: list[Case] = []
    for prompt, decode in fitting:
        tell(f"prompt {prompt:,}, decode {decode:,}")
        ids = filler(prompt, model, tokenizer)
        cases += _turns(sides, ids, decode, runs, memory, all_logits=all_logits)
    skipped = tuple(pair for pair in pairs if pair not in fitting)
    return Outcome(tuple(cases), skipped, window, memory.reason)


def filler(length: int, model: Any, tokenizer: Any = None) -> Tensor:
    """A prompt ``[1, length]``: one sentence again and again."""
    if tokenizer is not None:
        sentence = torch.tensor(tokenizer(FILLER, add_special_tokens=False)["input_ids"])
    else:
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.get_input_embeddings().num_embeddings
        sentence = torch.randint(vocabulary, (_SENTENCE,), generator=generator)
    return sentence.repeat(-(-length // len(sentence)))[None, :length].to(model.device)


def _turns(
    sides: Sequence[Side], ids: Tensor, decode: int, runs: int, memory: PeakMemory, *, all_logits: bool
) -> list[Case]:
    """All sides at one pair of lengths: each warms up once, then they take turns."""
    peaks = [measure_peaks(side, ids, decode, memory, all_logits=all_logits) for side in sides]
    turns = [[time_generation(side, ids, decode, all_logits=all_logits) for side in sides] for _ in range(runs)]
    return [
        Case(ids.shape[1], decode, side.name, peak, seconds, _times_bare(seconds, [turn[0] for turn in turns]))
        for side, peak, seconds in zip(sides, peaks, zip(*turns, strict=True), strict=True)
    ]


def _times_bare(runs: Sequence[Seconds], bare: Sequence[Seconds]) -> dict[str, float]:
    pairs = [(_taken(run), _taken(other)) for run, other in zip(runs, bare, strict=True)]
    return {name: statistics.median(run[name] / other[name] for run, other in pairs) for name in MEASURES}


def _taken(run: Seconds) -> dict[str, float]:
    return dict(zip(MEASURES, (run.prefill, run.decode, run.prefill + run.decode), strict=True))
