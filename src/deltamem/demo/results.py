"""What the demo has measured, and the same as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltamem.rates import Z95, wilson


@dataclass(frozen=True)
class Rate:
    """A share of right answers.

    Attributes:
        dialogues: of each dialogue, how many of its answers are right, and how many there are.
    """

    dialogues: tuple[tuple[int, int], ...]

    @property
    def right(self) -> int:
        """The right answers."""
        return sum(right for right, _ in self.dialogues)

    @property
    def total(self) -> int:
        """All answers."""
        return sum(total for _, total in self.dialogues)

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share, by dialogues.

        Answers about one dialogue stand or fall together, so they count for as many independent ones as would vary
        as much (E. L. Korn and B. I. Graubard, 1998), and for one a dialogue where none differs from another. With
        that number it is :func:`~deltamem.rates.wilson`'s.
        """
        worth = self._independent()
        return wilson(self.value * worth, worth)

    def _independent(self) -> float:
        """How many independent answers are worth as much; as few as dialogues make Student's t is Gauss'."""
        count, p = len(self.dialogues), self.value
        if count < 2:
            return 1.0
        varies = sum((right - p * total) ** 2 for right, total in self.dialogues) / self.total**2
        variance = varies * count / (count - 1)
        if not variance:
            return float(count)
        free = count - 1
        # The first terms of Cornish and Fisher's expansion of Student's quantile.
        t = Z95 + (Z95**3 + Z95) / (4 * free) + (5 * Z95**5 + 16 * Z95**3 + 3 * Z95) / (96 * free**2)
        return max(1.0, min(float(self.total), p * (1 - p) / variance * (Z95 / t) ** 2))

    @classmethod
    def of(cls, right: Sequence[bool], dialogues: Sequence[int]) -> "Rate":
        """The share of true ones, of which each is about a dialogue."""
        found: dict[int, tuple[int, int]] = {}
        for one, dialogue in zip(right, dialogues, strict=True):
            before = found.get(dialogue, (0, 0))
            found[dialogue] = before[0] + one, before[1] + 1
        return cls(tuple(found.values()))

    @classmethod
    def together(cls, rates: Sequence["Rate"]) -> "Rate":
        """The share in all of them, each of which is about other dialogues."""
        return cls(tuple(one for rate in rates for one in rate.dialogues))


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
