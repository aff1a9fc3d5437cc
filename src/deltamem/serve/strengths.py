"""How strongly each token of a turn was written to the memory, and how strongly it read it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deltamem.attach import attached
from deltamem.attribution import read_vectors
from deltamem.chat import Message
from deltamem.observe import CHUNK, chunk_length
from deltamem.serve.beside import Check, go_on
from deltamem.serve.prompts import Written
from deltamem.serve.text import TextStream
from deltamem.state import MemoryState
from deltamem.step import Step


def write_strengths(
    model: nn.Module, written: Written, state: MemoryState, check: Check = go_on
) -> tuple[Tensor, MemoryState]:
    """The norm of each token's change to the memory, and the memory after the last.

    The text goes through the backbone in the chunks in which it was written. Then the memories take what they saw
    token by token, so that every state between two tokens is there to be compared. A segment's change is that of the
    token at which it closes.

    Args:
        model: an attached model.
        written: ``[1, T]`` tokens, segment ids and write flags.
        state: the memory before, one row.
        check: called at every chunk and token; raises if nobody waits for the result any more.

    Returns:
        ``[T]`` float32 on the CPU, and the memory.
    """
    attachment = attached(model)
    chunk = chunk_length(attachment.base.config, CHUNK)
    device = attachment.base.device
    ids, segments, write = (tensor.to(device) for tensor in written)
    segmented = attachment.config.writes_segments
    sizes: list[Tensor] = []
    for start in range(0, ids.shape[1], chunk):
        check()
        part = slice(start, start + chunk)
        inputs: dict[int, Tensor] = {}
        step = Step(
            state,
            write=write[:, part],
            segment_ids=segments[:, part] if segmented else None,
            close=start + chunk >= ids.shape[1],
            inputs=inputs,
        )
        with torch.no_grad():
            attachment.base(input_ids=ids[:, part], memory=step, use_cache=False)
            sizes += _token_by_token(model, step, write[:, part], segments[:, part], inputs, check)
        state = step.new_state
    return torch.stack(sizes).cpu() if sizes else torch.zeros(0), state


def _token_by_token(
    model: nn.Module,
    whole: Step,
    write: Tensor,
    segments: Tensor,
    inputs: dict[int, Tensor],
    check: Check,
) -> list[Tensor]:
    """The norms of the changes of a pass's tokens, from the inputs that its layers got."""
    attachment, state, last = attached(model), whole.state, whole.length - 1
    config = attachment.config
    closes = whole.close or config.segment_reads == "call"
    config = replace(config, segment_reads="closed")  # when a segment is read does not matter to what it writes
    sizes = []
    for token in range(whole.length):
        check()
        at = slice(token, token + 1)
        ids = segments[:, at] if config.writes_segments else None
        step = Step(state, write=write[:, at], segment_ids=ids, close=closes and token == last)
        step.begin(config, 1, 1, whole.device)
        for layer, memory in enumerate(attachment.memories()):
            seen = inputs[layer][:, at]
            _, after, pending = memory(seen, *step.take(layer, seen.device))
            step.put(layer, after, pending)
        sizes.append(step.new_state.diff(state).norm())
        state = step.new_state
    return sizes


def read_strengths(model: nn.Module, ids: Sequence[int], state: MemoryState, check: Check = go_on) -> Tensor:
    """The norm of what each token of a prompt and its answer reads from an unchanging memory.

    Args:
        model: an attached model.
        ids: the tokens of both.
        state: the memory, one row.
        check: called at every chunk; raises if nobody waits for the result any more.

    Returns:
        ``[T]`` float32 on the CPU.
    """
    row = torch.tensor([list(ids)], dtype=torch.int64)
    norms: list[Tensor] = []
    with torch.no_grad():
        for reads in read_vectors(model, row, state):
            check()
            norms.append(reads.norm(dim=1).cpu())
    return torch.cat(norms)


def content_tokens(tokenizer: Any, message: Message, ids: Sequence[int]) -> list[tuple[int, str]]:
    """The tokens of a message that show its content: their places in ``ids``, and what each adds to it.

    What the chat template puts around the content is left out.
    """
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    text, content = "".join(pieces), message["content"].strip()
    begin = text.find(content)
    if begin < 0:  # a tokenizer that changes the text
        return [(place, piece) for place, piece in enumerate(pieces) if piece]
    found, at = [], 0
    for place, piece in enumerate(pieces):
        shown = text[max(at, begin) : min(at + len(piece), begin + len(content))]
        at += len(piece)
        if shown:
            found.append((place, shown))
    return found
