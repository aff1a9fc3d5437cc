"""Reading tokens into a memory, in chunks and without computing a single logit."""

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
    """Writes tokens into a memory and gives the new one; the text itself is then no longer needed.

    Each chunk is one forward pass of the backbone without its language-model head. Attention sees the
    chunk alone, so time grows linearly and peak memory does not grow with the length.

    Args:
        model: an attached model.
        input_ids: ``[B, T]``, any length.
        state: the memory to start from; empty by default.
        attention_mask: ``[B, T]``, 0 for padding.
        segment_ids: ``[B, T]``, for adapters that write segments.
        write: ``[B, T]`` bool, the tokens that may write; all by default.
        close: end the last segment with the text.
        chunk_size: tokens a forward pass; at most what the backbone has positions for.

    Raises:
        ValueError: the shapes do not fit, or segment ids are missing.
    """
    attachment = attached(model)
    positions = getattr(attachment.base.config, "max_position_embeddings", None) or chunk_size
    size = max(1, min(chunk_size, positions))
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
