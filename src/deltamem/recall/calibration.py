"""From evidence to a confidence that means what it says: of answers given with 0.8, about eight in ten are right."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Self

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from deltamem.formats.hub import adapter_fingerprint
from deltamem.recall.evidence import Evidence

_MOST = 20.0  # nats; more evidence than this says nothing new


@dataclass(frozen=True)
class Calibration:
    """A logistic regression of "the answer is right" on its evidence.

    Attributes:
        bias: its intercept.
        likely: the weight of the answer's mean log-probability per token.
        over_empty: the weight of how much likelier the memory makes it than an empty one, per 10 nats.
        over_strangers: the same against the memories of strangers.
        fitted: whether it was fitted to answers of the adapter it is used with.
    """

    bias: float = 0.0
    likely: float = 1.0
    over_empty: float = 0.0
    over_strangers: float = 10.0
    fitted: bool = False

    def confidence(self, evidence: Evidence) -> float:
        """The probability that an answer is right; 0 where it is no likelier than with an empty memory."""
        if not evidence.answer or evidence.over_empty <= 0:
            return 0.0
        terms = zip((self.likely, self.over_empty, self.over_strangers), _features(evidence), strict=True)
        return 1 / (1 + math.exp(-max(-700.0, self.bias + sum(weight * value for weight, value in terms))))

    @classmethod
    def fit(cls, evidence: Sequence[Evidence], right: Sequence[bool]) -> Self:
        """The calibration under which the given results are likeliest.

        More evidence never lowers the confidence: no weight is negative.

        Raises:
            ValueError: all were right, or none.
        """
        if len(set(right)) != 2:
            raise ValueError("A calibration needs answers that were right and answers that were wrong.")
        features = torch.tensor([_features(one) for one in evidence], dtype=torch.float64)
        target = torch.tensor([float(one) for one in right], dtype=torch.float64)
        bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([bias, raw], max_iter=500, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            weights = F.softplus(raw)
            found = F.binary_cross_entropy_with_logits(bias + features @ weights, target)
            found = found + 1e-4 * weights.square().sum()
            found.backward()
            return found

        solver.step(loss)
        likely, over_empty, over_strangers = F.softplus(raw).tolist()
        return cls(bias.item(), likely, over_empty, over_strangers, fitted=True)


def _features(evidence: Evidence) -> tuple[float, float, float]:
    def bounded(value: float) -> float:
        return max(-_MOST, min(_MOST, value)) / 10

    return (
        max(-_MOST, evidence.memory / evidence.tokens),
        bounded(evidence.over_empty),
        bounded(evidence.over_strangers),
    )


def calibration_of(model: PreTrainedModel) -> Calibration:
    """The calibration that comes with the package for the active adapter; else one that was fitted to none.

    ``benchmarks/recall.py`` fits them.
    """
    found = _shipped().get(adapter_fingerprint(model))
    return Calibration() if found is None else Calibration(**found["weights"], fitted=True)


@cache
def _shipped() -> Mapping[str, Any]:
    """By an adapter's fingerprint what ``benchmarks/recall.py`` wrote."""
    found: Mapping[str, Any] = json.loads(files("deltamem.recall").joinpath("calibrations.json").read_text("utf-8"))
    return found
