"""What a configuration names and is code: write strategies and update rules (arXiv 2605.12357, section 3)."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deltamem.extensions import Table

Spans = Iterable[tuple[int, int]]
Gates = tuple[Any, Any, Any]
_SENTENCE = re.compile(r"[^.!?…。！？\n]*[.!?…。！？\n]+|[^.!?…。！？\n]+")


@dataclass(frozen=True)
class WriteStrategy:
    """When an adapter writes, and how text becomes segments.

    Attributes:
        name: what a configuration calls it.
        cut: where the segments of a message's text lie, as ascending pairs of places, from the first character to after
            the last; text between them belongs to none. ``None`` takes a message whole, with what the chat template
            puts around it.
        segmented: whether it writes once per segment; otherwise it writes at every token and ignores segments.
    """

    name: str
    cut: Callable[[str], Spans] | None = None
    segmented: bool = True


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence of a text lies."""
    return (found.span() for found in _SENTENCE.finditer(text) if found.group().strip())


WRITE_STRATEGIES = Table(
    "deltamem.write_strategies",
    (
        WriteStrategy("token", segmented=False),
        WriteStrategy("message"),
        WriteStrategy("sentence", sentences),
    ),
)


@dataclass(frozen=True)
class UpdateRule:
    """How a write changes a state: ``S <- keep S - erase (S k) k^T + write v k^T``, where gates scale rows of S.

    Attributes:
        name: what a configuration calls it.
        gates: from a keep gate λ and a write gate β, both in (0, 1), the factors ``keep``, ``erase`` and ``write``. It
            is called with tensors and compiled for single numbers, so it may only use ``+ - * /`` and constants. The
            state stays bounded while ``0 <= keep <= 1`` and ``|keep - erase| <= 1``.
    """

    name: str
    gates: Callable[[Any, Any], Gates]


def _standard(keep: Any, beta: Any) -> Gates:
    return keep, beta, beta


def _lambda_outside(keep: Any, beta: Any) -> Gates:
    return keep, keep * beta, beta


def _no_lambda(keep: Any, beta: Any) -> Gates:
    return 1, beta, beta


def _leaky(keep: Any, beta: Any) -> Gates:
    return 1 - beta / 50, beta, beta


def _hebbian(keep: Any, beta: Any) -> Gates:
    return keep, 0, beta


def _accumulate(keep: Any, beta: Any) -> Gates:
    return 1, 0, beta


UPDATE_RULES = Table(
    "deltamem.update_rules",
    (
        UpdateRule("standard", _standard),
        UpdateRule("lambda_outside", _lambda_outside),
        UpdateRule("no_lambda", _no_lambda),
        UpdateRule("leaky", _leaky),
        UpdateRule("hebbian", _hebbian),
        UpdateRule("accumulate", _accumulate),
    ),
)


def register_write_strategy(strategy: WriteStrategy) -> None:
    """Lets configurations name another write strategy, ``DeltaMemConfig(write=strategy.name)``."""
    WRITE_STRATEGIES.add(strategy)


def register_update_rule(rule: UpdateRule) -> None:
    """Lets configurations name another update rule, ``DeltaMemConfig(update_rule=rule.name)``."""
    UPDATE_RULES.add(rule)
