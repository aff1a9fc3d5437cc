"""Writing long histories in bounded memory: by chunks, recomputed in the backward pass, and cut off further back.

A chunk is one forward pass whose attention sees that chunk alone, from position 0 on, as :func:`deltamem.observe`
reads a text: what one chunk knows of those before comes from the memory. So training writes as use does.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.episodes import TextBatch
from deltamem.train.options import Writing
from deltamem.train.passes import forward, write


def write_history(
    model: PreTrainedModel, state: MemoryState, passages: Sequence[TextBatch], writing: Writing
) -> tuple[MemoryState, list[Tensor | None]]:
    """Writes the passages of a batch of histories, one after another.

    The memory is detached where a multiple of ``writing.truncate`` chunks is left to write; chunks from which
    neither the memory nor a trained token can carry a gradient are run without any.

    Returns:
        the memory at the end, and for each passage with trained tokens its hidden states ``[B, T, D]``.
    """
    cut = [_chunks(passage, writing.chunk) for passage in passages]
    left = sum(len(chunks) for chunks in cut)
    told: list[Tensor | None] = []
    for passage, chunks in zip(passages, cut, strict=True):
        trained = bool(passage.weights.any())
        hidden = []
        for place, chunk in enumerate(chunks):
            if writing.truncate is not None and left % writing.truncate == 0:
                state = state.detach()
            beyond = writing.truncate is not None and left > writing.truncate and not trained
            with torch.set_grad_enabled(torch.is_grad_enabled() and not beyond):
                how: Callable[..., tuple[MemoryState, Tensor]] = write
                if writing.local and not trained:
                    how = _write_locally
                elif writing.recompute and torch.is_grad_enabled():
                    how = partial(checkpoint, write, use_reentrant=False, preserve_rng_state=model.training)
                state, seen = how(model, state, chunk, close=place == len(chunks) - 1)
            if trained:
                hidden.append(seen)
            left -= 1
        told.append(torch.cat(hidden, 1) if trained else None)
    return state, told


def _write_locally(
    model: PreTrainedModel, state: MemoryState, chunk: TextBatch, *, close: bool
) -> tuple[MemoryState, Tensor]:
    """As :func:`~deltamem.train.passes.write`, with gradients inside each layer's own memory alone."""
    inputs: dict[int, Tensor] = {}

    def step(start: MemoryState, inputs: dict[int, Tensor] | None = None) -> Step:
        written, segments = chunk.writes, chunk.segment_ids
        return Step(start, write=written, mask=chunk.mask, segment_ids=segments, close=close, inputs=inputs)

    with torch.no_grad():
        hidden = forward(model, chunk, step(state.detach(), inputs))
    attachment, again = attached(model), step(state)
    batch, length = chunk.ids.shape
    again.begin(attachment.config, batch, length, chunk.ids.device)
    for layer, memory in enumerate(attachment.memories()):
        _, new, pending = memory(inputs[layer], *again.take(layer, inputs[layer].device))
        again.put(layer, new, pending)
    return again.new_state, hidden


def _chunks(passage: TextBatch, size: int | None) -> list[TextBatch]:
    if size is None:
        return [passage]
    return [passage[:, start : start + size] for start in range(0, passage.ids.shape[1], size)]
