"""The datastore, a hidden state for every token of a text and the token that follows; and the search in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltamem_lab.methods.mlp_memory.network import reading


@dataclass(frozen=True)
class Datastore:
    """Keys and values.

    Attributes:
        keys: ``[N, D]``, float32, hidden states.
        values: ``[N]``, the token after each.
    """

    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)


@torch.no_grad()
def build_datastore(model: Any, passes: Iterable[Sequence[Sequence[int]]], *, layer: int, size: int) -> Datastore:
    """Reads texts until there are ``size`` keys, or no more texts.

    What is token for token the same from the beginning of a text is one key with one value, however often it comes: a
    history stands before each of its questions, and would otherwise find itself.

    Args:
        model: the backbone, bare.
        passes: token ids of the texts of each forward pass.
        layer: the block whose feed-forward reads the keys.
        size: the most keys.

    Raises:
        ValueError: fewer than two tokens have one after them, so there is nothing to find.
    """
    seen: set[int] = set()
    keys: list[Tensor] = []
    values: list[int] = []
    with reading(model, layer) as held:
        for texts in passes:
            fresh = [(row, place) for row, text in enumerate(texts) for place in _fresh(text, seen)]
            fresh = fresh[: size - len(values)]
            if fresh:
                rows = [torch.tensor(text) for text in texts]
                # Padding comes after all that counts, so causal attention needs no mask.
                ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
                model.get_decoder()(input_ids=ids, use_cache=False)
                where = torch.tensor(fresh, device=model.device)
                keys.append(held[0][where[:, 0], where[:, 1]].float())
                values += [texts[row][place + 1] for row, place in fresh]
            if len(values) >= size:
                break
    if len(values) < 2:
        raise ValueError("The training texts are too short; give more text.")
    return Datastore(torch.cat(keys), torch.tensor(values, device=model.device))


def _fresh(text: Sequence[int], seen: set[int]) -> list[int]:
    """The places whose context and next token have not been seen."""
    found = []
    context = 0
    for place, token in enumerate(text):
        context = hash((context, token))
        if place and context not in seen:
            seen.add(context)
            found.append(place - 1)
    return found


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
