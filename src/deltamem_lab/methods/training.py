"""What baselines that are trained share: rows of tokens, their loss, and the updates that lower it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_CLIP = 1.0
_WARM_UP = 0.1


_Pass = TypeVar("_Pass")


@dataclass(frozen=True)
class TokenRows:
    """Texts padded on the right, and the loss weight of each token as a prediction; both ``[B, T]``."""

    ids: Tensor
    weights: Tensor

    @classmethod
    def pad(cls, texts: Iterable[tuple[list[int], list[float]]]) -> "TokenRows":
        """One row a text of ids and weights; what is padded has the weight 0, and comes after all that counts."""
        pairs = [(torch.tensor(ids), torch.tensor(weights, dtype=torch.float32)) for ids, weights in texts]
        ids, weights = zip(*pairs, strict=True)
        pad = nn.utils.rnn.pad_sequence
        return cls(pad(list(ids), batch_first=True), pad(list(weights), batch_first=True))

    def select(self, rows: Sequence[int]) -> "TokenRows":
        """Some of the rows, with no more padding on the right than they need."""
        ids, weights = self.ids[list(rows)], self.weights[list(rows)]
        length = int((weights > 0).any(0).nonzero()[-1]) + 1
        return TokenRows(ids[:, :length], weights[:, :length])

    @property
    def total(self) -> float:
        """The sum of the weights; the first token of a row is never predicted."""
        return float(self.weights[:, 1:].sum())


def descend(
    parameters: Sequence[nn.Parameter],
    updates: Iterable[Sequence[_Pass]],
    loss: Callable[[_Pass], Tensor],
    *,
    rate: float,
    steps: int,
    weight: Callable[[_Pass], float] = lambda _: 1.0,
) -> list[float]:
    """Trains parameters by AdamW; they need no gradient before or after.

    Args:
        parameters: what is trained.
        updates: what each update reads, such as rows, in as many passes as memory asks for.
        loss: the weighted mean of the loss of what a pass predicts.
        rate: the highest learning rate, reached after a tenth of the updates; a cosine leads down from it.
        steps: how many updates there are.
        weight: how much a pass counts in the loss of its update.

    Returns:
        the loss before each update.
    """
    losses: list[float] = []
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
        for passes in updates:
            total = sum(map(weight, passes))
            optimizer.zero_grad()
            losses.append(0.0)
            for rows in passes:
                part = loss(rows) * (weight(rows) / total)
                part.backward()
                losses[-1] += part.item()
            nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
            schedule.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
    return losses


def next_token_loss(model: Any, rows: TokenRows, **read: Any) -> Tensor:
    """The weighted mean of the loss of each token from those before it.

    The model reads the tokens, or what ``read`` says instead, such as ``inputs_embeds`` of these tokens after a cache.
    """
    ids, weights = rows.ids.to(model.device), rows.weights[:, 1:].to(model.device)
    columns = (weights > 0).any(0).nonzero()[:, 0]
    found = model(**(read or {"input_ids": ids}), use_cache=False, logits_to_keep=columns)
    logits = found.logits.float().flatten(0, 1)
    losses = functional.cross_entropy(logits, ids[:, 1:][:, columns].flatten(), reduction="none")
    return (losses * weights[:, columns].flatten()).sum() / rows.total


def shuffled(items: int, seed: int) -> Iterator[int]:
    """The numbers of the items without end, in another order each time all have come."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(items, generator=generator).tolist()


def _share_of_rate(step: int, steps: int) -> float:
    """Linear warm-up over a tenth of the updates, then a cosine to nothing."""
    warm = math.ceil(steps * _WARM_UP)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
