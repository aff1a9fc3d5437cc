"""What the demo has measured, and the same as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltamem.rates import wilson


@dataclass(frozen=True)
class Rate:
    """``right`` of ``total``."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share; see :func:`~deltamem.rates.wilson`."""
        return wilson(self.right, self.total)

    @classmethod
    def of(cls, right: Sequence[bool]) -> "Rate":
        """The share of true ones."""
        return cls(sum(right), len(right))

    @classmethod
    def together(cls, rates: Sequence["Rate"]) -> "Rate":
        """The share in all of them."""
        return cls(sum(rate.right for rate in rates), sum(rate.total for rate in rates))


Curve = list[tuple[int, Rate]]


@dataclass(frozen=True)
class Updates:
    """Answers about corrected facts, by method: how many give the new value, and how many the old one."""

    new: dict[str, Rate]
    old: dict[str, Rate]


@dataclass(frozen=True)
class Cost:
    """The backbone with and without an adapter that starts empty, on text in its window.

    Attributes:
        in_context: right answers, ``bare`` and ``adapted``.
        loss: the loss of the assistant's tokens in nats, ``bare`` and ``adapted``.
    """

    in_context: dict[str, Rate]
    loss: dict[str, float]


@dataclass(frozen=True)
class Results:
    """Everything measured.

    Attributes:
        recall: by method and number of facts.
        updates: answers about corrected facts.
        forgetting: for each adapter, and for the text that fits the window, pairs of tokens since the facts and recall.
        cost: what the adapter costs the backbone.
        bytes_per_session: the size of one session's memory, by adapter.
    """

    recall: dict[str, dict[int, Rate]]
    updates: Updates
    forgetting: dict[str, Curve]
    cost: Cost
    bytes_per_session: dict[str, int]

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON: rates in [0, 1], and beside each name a ``…_interval`` of the same form."""
        recall, updates, curves = self.recall, self.updates, self.forgetting
        return {
            "recall": {m: {str(n): r.value for n, r in by.items()} for m, by in recall.items()},
            "recall_interval": {m: {str(n): r.interval for n, r in by.items()} for m, by in recall.items()},
            "recall_questions": {str(n): r.total for n, r in next(iter(recall.values())).items()},
            "updates": {m: r.value for m, r in updates.new.items()},
            "updates_interval": {m: r.interval for m, r in updates.new.items()},
            "updates_old_value": {m: r.value for m, r in updates.old.items()},
            "updates_old_value_interval": {m: r.interval for m, r in updates.old.items()},
            "updates_questions": next(iter(updates.new.values())).total,
            "forgetting": {m: [(tokens, r.value) for tokens, r in curve] for m, curve in curves.items()},
            "forgetting_interval": {m: [r.interval for _, r in curve] for m, curve in curves.items()},
            "forgetting_questions": next(iter(curves.values()))[0][1].total,
            "capability": {
                "in_context": {m: r.value for m, r in self.cost.in_context.items()},
                "in_context_interval": {m: r.interval for m, r in self.cost.in_context.items()},
                "in_context_questions": self.cost.in_context["bare"].total,
                "next_token_loss": self.cost.loss,
            },
            "bytes_per_session": self.bytes_per_session["multi"],
            "bytes_per_session_by_method": self.bytes_per_session,
        }
