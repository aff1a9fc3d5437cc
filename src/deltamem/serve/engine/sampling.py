"""How the next token is chosen, row by row: what one row draws does not depend on its neighbours."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltamem.serve.engine.constraint import Constraint, mask

MAX_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one generation goes.

    Attributes:
        max_tokens: the most tokens to generate.
        temperature: 0 takes the likeliest token.
        top_p: draws among the likeliest tokens that together have this probability.
        top_k: draws among so many of the likeliest tokens; 0 among all.
        min_p: draws among the tokens that have this share of the likeliest one's probability.
        repetition_penalty: what has come already, prompt included, has its logit divided by this, or multiplied
            where it is below 0. 1 changes nothing.
        frequency_penalty: taken from a token's logit each time the answer has had it.
        presence_penalty: taken from a token's logit once the answer has had it.
        logit_bias: added to the logits of some tokens, by their ids.
        seed: makes the draws repeatable; ``None`` for new ones every time.
        stop: texts before which the generation ends.
        logprobs: how many alternatives to report beside each token's log-probability; ``None`` reports nothing.
        ignore_end: continues after the end token, up to ``max_tokens``.

    Raises:
        ValueError: a value is out of range.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
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
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 1, or 0 for all tokens, not {self.top_k}.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must lie between 0 and 1, not {self.min_p}.")
        if not 0 < self.repetition_penalty <= 10:
            raise ValueError(f"repetition_penalty must be above 0 and at most 10, not {self.repetition_penalty}.")
        for name in ("frequency_penalty", "presence_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} must lie between -2 and 2, not {getattr(self, name)}.")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise ValueError(f"At most {MAX_LOGPROBS} alternatives can be reported, not {self.logprobs}.")
        if not all(self.stop):
            raise ValueError("A stop string must not be empty.")

    @property
    def shifted(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return bool(self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty or self.logit_bias)

    @property
    def narrowed(self) -> bool:
        """Whether it draws among some of the tokens only."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

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


def choose(
    logits: Tensor,
    rows: Sequence[tuple[Sampling, random.Random]],
    seen: Sequence[Sequence[int]] = (),
    prompts: Sequence[int] = (),
    constraints: Sequence[Constraint | None] = (),
) -> list[Chosen]:
    """The next token of every row.

    Args:
        logits: ``[B, V]``.
        rows: for each row how it samples, and its own random numbers.
        seen: for each row its tokens so far, prompt included; rows with a penalty need them.
        prompts: how many of them are the prompt; none by default.
        constraints: for each row what it may say; anything by default.
    """
    raw = logits.float()
    logits = _shifted(raw, [sampling for sampling, _ in rows], seen, prompts)
    logits = mask(logits, constraints)
    tokens = logits.argmax(-1).tolist()
    drawn = [number for number, (sampling, _) in enumerate(rows) if sampling.temperature > 0]
    whole = [number for number in drawn if not rows[number][0].narrowed]
    some = [number for number in drawn if rows[number][0].narrowed]
    for drawing, draw in ((whole, _draw), (some, _draw_from_some)):
        if drawing:
            for number, token in zip(drawing, draw(logits[drawing], [rows[n] for n in drawing]), strict=True):
                tokens[number] = token
    return [
        Chosen(token) if sampling.logprobs is None else _with_logprobs(raw[number], token, sampling.logprobs)
        for number, (token, (sampling, _)) in enumerate(zip(tokens, rows, strict=True))
    ]


def _shifted(
    logits: Tensor, samplings: Sequence[Sampling], seen: Sequence[Sequence[int]], prompts: Sequence[int]
) -> Tensor:
    """Logits with the penalties and biases of each row."""
    if not any(sampling.shifted for sampling in samplings):
        return logits
    logits = logits.clone()
    for number, sampling in enumerate(samplings):
        row = logits[number]
        if sampling.repetition_penalty != 1:
            come = torch.tensor(sorted(set(seen[number])), device=logits.device)
            penalty = sampling.repetition_penalty
            row[come] = torch.where(row[come] > 0, row[come] / penalty, row[come] * penalty)
        if sampling.frequency_penalty or sampling.presence_penalty:
            made = Counter(seen[number][prompts[number] if prompts else 0 :])
            tokens = torch.tensor(list(made), dtype=torch.int64, device=logits.device)
            times = torch.tensor(list(made.values()), dtype=row.dtype, device=logits.device)
            row[tokens] -= sampling.frequency_penalty * times + sampling.presence_penalty
        if sampling.logit_bias:
            ids, biases = zip(*sampling.logit_bias, strict=True)
            row[torch.tensor(ids, device=logits.device)] += torch.tensor(biases, device=logits.device)
    return logits


def _draw(logits: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> list[int]:
    """One draw a row from all tokens."""
    return _invert(_probabilities(logits, rows), rows)[:, 0].tolist()


def _draw_from_some(logits: Tensor, rows: Sequence[tuple[Sampling, random.Random]]) -> list[int]:
    """One draw a row from its likeliest tokens: those that ``top_k``, then ``top_p`` and ``min_p`` leave."""
    probabilities, order = _probabilities(logits, rows).sort(dim=-1, descending=True, stable=True)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    size = probabilities.shape[-1]
    rank = torch.arange(size, device=logits.device)
    kept = rank < column([sampling.top_k or size for sampling, _ in rows])
    probabilities = probabilities.masked_fill(~kept, 0)
    probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = (before < column([sampling.top_p for sampling, _ in rows])) & (
        probabilities >= column([sampling.min_p for sampling, _ in rows]) * probabilities[:, :1]
    )
    probabilities = probabilities.masked_fill(~kept, 0)
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
