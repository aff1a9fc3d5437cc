"""What follows the nearest keys of a datastore: the distribution of a kNN language model (arXiv 1911.00172)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deltamem_lab.methods.mlp_memory.datastore import Datastore

_LEAST = 1e-8
_BLOCK_NUMBERS = 2**25


@dataclass(frozen=True)
class Targets:
    """A distribution over the next token for each key, without the tokens below 1e-8.

    Attributes:
        offsets: ``[N + 1]``, where the tokens of each key begin and end.
        tokens: ``[M]``, token ids.
        probabilities: ``[M]``, float32.
    """

    offsets: Tensor
    tokens: Tensor
    probabilities: Tensor

    def dense(self, rows: Tensor, vocabulary: int) -> Tensor:
        """The distributions ``[B, V]`` of keys ``[B]``."""
        starts, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
        within = torch.arange(len(row), device=rows.device) - (counts.cumsum(0) - counts)[row]
        chosen = starts[row] + within
        found = torch.zeros(len(rows), vocabulary, device=rows.device)
        found[row, self.tokens[chosen]] = self.probabilities[chosen]
        return found


def knn_targets(store: Datastore, vocabulary: int, *, neighbours: int, temperature: float) -> Targets:
    """The distribution of each key's neighbours: each counts by exp(-d²/temperature), d² its squared distance.

    Args:
        store: the datastore; keys query it, and none finds itself.
        vocabulary: how many tokens there are.
        neighbours: k; at most all others.
        temperature: in units of d².
    """
    counts, tokens, probabilities = [], [], []
    for distances, places in nearest_keys(store.keys, neighbours, rows=_BLOCK_NUMBERS // max(vocabulary, len(store))):
        weights = torch.softmax(-distances / temperature, dim=-1)
        dense = torch.zeros(len(places), vocabulary, device=places.device)
        dense.scatter_add_(1, store.values[places], weights)
        row, token = (dense > _LEAST).nonzero(as_tuple=True)
        counts.append(torch.bincount(row, minlength=len(places)))
        tokens.append(token)
        probabilities.append(dense[row, token])
    offsets = torch.cat([counts[0].new_zeros(1), torch.cat(counts).cumsum(0)])
    return Targets(offsets, torch.cat(tokens), torch.cat(probabilities))


def nearest_keys(keys: Tensor, neighbours: int, *, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The nearest other keys of every key, exactly, block by block.

    Args:
        keys: ``[N, D]``.
        neighbours: k; at most all others.
        rows: how many keys are compared with all at once.

    Yields:
        squared distances and numbers of the neighbours of the next keys, both ``[rows, k]``, nearest first.
    """
    norms, wanted = keys.square().sum(1), min(neighbours, len(keys) - 1)
    for start in range(0, len(keys), max(1, rows)):
        part = keys[start : start + max(1, rows)]
        squared = torch.addmm(norms, part, keys.T, alpha=-2).add_(part.square().sum(1, keepdim=True)).clamp_(min=0)
        own = torch.arange(len(part), device=keys.device)
        squared[own, start + own] = torch.inf
        yield torch.topk(squared, wanted, dim=1, largest=False)
