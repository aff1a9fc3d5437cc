"""Reading tokens into a memory, in chunks and without computing a single logit."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deltamem.attach import attached
from deltamem.state import MemoryState
from deltamem.step import Step

CHUNK = 512


def observe(
    model: nn.Module,
    input_ids: Tensor,
    state: MemoryState | None = None,
    *,
    attention_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    write: Tensor | None = None,
    close: bool = True,
    chunk_size: int = CHUNK,
) -> MemoryState:
    """Writes tokens into a memory and returns the new one; you no longer need the text.

    Each chunk is one forward pass of the backbone without its language-model head. Attention sees
    only the chunk, so time grows linearly and peak memory does not grow with the length.

    Args:
        model: an attached model.
        input_ids: ``[B, T]``, any length.
        state: the memory to start from; empty by default.
        attention_mask: ``[B, T]``, 0 for padding.
        segment_ids: ``[B, T]``, for adapters that write segments.
        write: ``[B, T]`` bool, the tokens that may write; all by default.
        close: end the last segment with the text.
        chunk_size: tokens in each forward pass; at most the backbone's number of positions.

    Raises:
        ValueError: the shapes do not fit, or segment ids are missing.
    """
    attachment = attached(model)
    size = chunk_length(attachment.base, chunk_size)
    state = state if state is not None else attachment.new_state(input_ids.shape[0])
    length = input_ids.shape[1]
    for start in range(0, length, size):
        part = slice(start, start + size)
        step = Step(
            state,
            write=True if write is None else write[:, part],
            mask=None if attention_mask is None else attention_mask[:, part].bool(),
            segment_ids=None if segment_ids is None else segment_ids[:, part],
            close=close and start + size >= length,
        )
        with torch.no_grad():
            attachment.base(
                input_ids=input_ids[:, part],
                attention_mask=None if attention_mask is None else attention_mask[:, part],
                memory=step,
                use_cache=False,
            )
        state = step.new_state
    return state


def observe_stream(
    model: nn.Module,
    parts: Iterable[tuple[Tensor, ...]],
    state: MemoryState | None = None,
    *,
    chunk_size: int = CHUNK,
) -> MemoryState:
    """Writes a text that arrives in parts, of which it holds no more than a part and a chunk at a time.

    The parts are joined and cut into the chunks that :func:`observe` would make of the whole text, so the
    memory does not depend on where the parts end.

    Args:
        model: an attached model.
        parts: token ids, segment ids and write flags ``[B, T]`` of each part, any length; the segment ids matter
            to adapters that write segments.
        state: the memory to start from; empty by default.
        chunk_size: tokens in each forward pass; at most the backbone's number of positions.

    Raises:
        ValueError: there are no tokens.
    """
    size = chunk_length(attached(model).base, chunk_size)
    for (ids, segments, write), last in _rechunk(parts, size):
        state = observe(model, ids, state, segment_ids=segments, write=write, close=last, chunk_size=size)
    return state  # type: ignore[return-value]


def positions(model: nn.Module) -> int | None:
    """How many tokens a backbone has positions for, prompt and answer together; ``None`` if it does not say."""
    config: Any = model.config
    found: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found


def chunk_length(model: nn.Module, wanted: int) -> int:
    """How many tokens a forward pass takes: those wanted, at most the backbone's number of positions."""
    return max(1, min(wanted, positions(model) or wanted))


def _rechunk(parts: Iterable[tuple[Tensor, ...]], size: int) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """The same tokens in chunks of ``size``, and whether each is the last, which may be shorter."""
    held: tuple[Tensor, ...] | None = None
    for part in parts:
        held = part if held is None else tuple(torch.cat(pair, 1) for pair in zip(held, part, strict=True))
        while held[0].shape[1] > size:
            yield tuple(row[:, :size] for row in held), False
            held = tuple(row[:, size:] for row in held)
    if held is None or not held[0].shape[1]:
        raise ValueError("There is no text to observe.")
    yield held, True
