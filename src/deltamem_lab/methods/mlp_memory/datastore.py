"""The datastore: a hidden state for every token of a text, and the token that follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltamem_lab.methods.mlp_memory.hidden import reading


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
        raise ValueError("The training texts have fewer than two tokens that another follows; give more text.")
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
