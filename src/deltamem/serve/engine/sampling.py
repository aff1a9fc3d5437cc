"""How the next token is chosen, row by row: what one row draws does not depend on its neighbours."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one generation goes.

    Attributes:
        max_tokens: the most tokens to generate.
        temperature: 0 takes the likeliest token.
        top_p: draws among the likeliest tokens that together have this probability.
        seed: makes the draws repeatable; ``None`` for new ones every time.
        stop: texts before which the generation ends.
        logprobs: how many alternatives to report beside each token's log-probability; ``None`` reports nothing.
        ignore_end: goes on after the end token, up to ``max_tokens``.

    Raises:
        ValueError: a value is out of range.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_end: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}.")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie between 0 and 2, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise ValueError(f"At most {MAX_LOGPROBS} alternatives can be reported, not {self.logprobs}.")
        if not all(self.stop):
            raise ValueError("A stop string must not be empty.")

    def draws(self) -> random.Random:
        """The random numbers of this generation."""
        return random.Random(self.seed)


@dataclass(frozen=True)
class Chosen:
    """One generated token.

    Attributes:
        token: its id.
        logprob: its log-probability in nats under the model, before temperature; ``None`` if not asked for.
        alternatives: the likeliest tokens, each with its log-probability.
    """

    token: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> list[Chosen]:
    """The next token of every row.

    Args:
        logits: ``[B, V]``.
        rows: for each row how it samples, and its own random numbers.
    """
    logits = logits.float()
    tokens = logits.argmax(-1).tolist()
    whole = [number for number, (sampling, _) in enumerate(rows) if sampling.temperature > 0 and sampling.top_p == 1]
    nucleus = [number for number, (sampling, _) in enumerate(rows) if sampling.temperature > 0 and sampling.top_p < 1]
    for drawing, draw in ((whole, _draw), (nucleus, _draw_from_nucleus)):
        if drawing:
            for number, token in zip(drawing, draw(logits[drawing], [rows[n] for n in drawing]), strict=True):
                tokens[number] = token
    return [
        Chosen(token) if sampling.logprobs is None else _with_logprobs(logits[number], token, sampling.logprobs)
        for number, (token, (sampling, _)) in enumerate(zip(tokens, rows, strict=True))
    ]


def _draw(logits: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> list[int]:
    """One draw a row from all tokens."""
    return _invert(_probabilities(logits, rows), rows)[:, 0].tolist()


def _draw_from_nucleus(logits: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> list[int]:
    """One draw a row from its likeliest tokens, the fewest that together have the probability ``top_p``."""
    probabilities, order = _probabilities(logits, rows).sort(dim=-1, descending=True, stable=True)
    top_p = torch.tensor([sampling.top_p for sampling, _ in rows], device=logits.device)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p[:, None], 0)
    # Rounding must not choose a token that has no probability.
    place = torch.minimum(_invert(probabilities, rows), (probabilities > 0).sum(-1, keepdim=True) - 1)
    return order.gather(-1, place.clamp(min=0))[:, 0].tolist()


def _probabilities(logits: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> Tensor:
    temperature = torch.tensor([sampling.temperature for sampling, _ in rows], device=logits.device)
    # Below this all the probability is on the likeliest token, and the quotient would overflow.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature.clamp(min=1e-6)[:, None]
    return torch.softmax(scaled, -1, dtype=torch.float64)


def _invert(probabilities: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> Tensor:
    """``[B, 1]``: where each row's next random number falls in its cumulative probabilities."""
    cumulative = probabilities.cumsum(-1)
    uniform = torch.tensor([draws.random() for _, draws in rows], dtype=torch.float64, device=probabilities.device)
    place = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return place.clamp(0, probabilities.shape[-1] - 1)


def _with_logprobs(logits: Tensor, token: int, count: int) -> Chosen:
    logprobs = torch.log_softmax(logits, -1)
    top = logprobs.topk(min(count, len(logprobs)))
    alternatives = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Chosen(token, float(logprobs[token]), alternatives)
