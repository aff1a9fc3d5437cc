"""How strongly tokens write and read a memory, and whose writing is read.

With addresses and gates as they are, a state is linear in the values written to it, and a read is linear in the state.
So the norm of what some tokens read is a sum of shares: one of each token written and one of the memory before it
(Euler's theorem on homogeneous functions; docs/mechanism.md).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from deltamem.attach import attached
from deltamem.attach.cache import PAST
from deltamem.observe import CHUNK, chunk_length
from deltamem.state import MemoryState
from deltamem.step import Step

Check = Callable[[], None]


@dataclass(frozen=True)
class ReadProbe:
    """How much is read of each entry of a memory's states.

    Attributes:
        weights: for each adapted layer ``[1, N, R, R]`` float32.
    """

    weights: tuple[Tensor, ...]

    def of(self, state: MemoryState) -> float:
        """How much is read of a memory: the sum of its entries times their weights."""
        return sum(float((w * s).sum()) for w, s in zip(self.weights, state.states, strict=True))


@dataclass(frozen=True)
class WriteShares:
    """How much of what is read each token of a text wrote.

    Attributes:
        tokens: ``[T]`` float32 on the CPU, the share of each token. A negative share means that the token reduces what
            is read. A segment's share is divided among its tokens by their part in the mean that was written.
        probe: how much is read of the memory before the text.
        state: the memory after it.
    """

    tokens: Tensor
    probe: ReadProbe
    state: MemoryState


def read_vectors(model: nn.Module, input_ids: Tensor, state: MemoryState) -> Iterator[Tensor]:
    """What each token of a text reads from an unchanging memory, a chunk of the text at a time.

    Args:
        model: an attached model.
        input_ids: ``[1, T]``, at most the backbone's number of positions.
        state: the memory, one row.

    Yields:
        ``[t, L·N·R]`` float32 for the next ``t`` tokens; differentiable in the state.
    """
    attachment = attached(model)
    device = attachment.base.device
    cache = DynamicCache(config=attachment.base.config.get_text_config(decoder=True))
    for part in input_ids.to(device).split(CHUNK, 1):
        inputs: dict[int, Tensor] = {}
        with torch.no_grad():
            step = Step(state, write=False, inputs=inputs)
            attachment.base(input_ids=part, memory=step, **{PAST: cache}, use_cache=True)
        layers = zip(attachment.memories(), state.states, strict=True)
        seen = [(memory, inputs[i], states.to(inputs[i].device)) for i, (memory, states) in enumerate(layers)]
        yield torch.cat([memory.reads(x, states)[0].flatten(1).to(device) for memory, x, states in seen], 1)


def read_probe(model: nn.Module, input_ids: Tensor, state: MemoryState, tokens: Tensor) -> ReadProbe:
    """How much some tokens of a text read of each entry of a memory: the gradient of the norms of their reads.

    ``probe.of(state)`` is the sum of those norms.

    Args:
        model: an attached model.
        input_ids: ``[1, T]``, at most the backbone's number of positions.
        state: the memory that they read, one row.
        tokens: ``[1, T]`` bool, whose reads count.
    """
    states = tuple(matrices.detach().clone().requires_grad_() for matrices in state.states)
    weights = [torch.zeros_like(matrices) for matrices in states]
    counted = tokens[0].split(CHUNK)
    with torch.enable_grad():
        for reads, which in zip(read_vectors(model, input_ids, replace(state, states=states)), counted, strict=True):
            norm = torch.linalg.vector_norm(reads, dim=1)[which.to(reads.device)].sum()
            weights = [w + more for w, more in zip(weights, torch.autograd.grad(norm, states), strict=True)]
    return ReadProbe(tuple(weights))


def write_shares(
    model: nn.Module,
    input_ids: Tensor,
    state: MemoryState,
    probe: ReadProbe,
    *,
    segment_ids: Tensor | None = None,
    write: Tensor | None = None,
    chunk_size: int = CHUNK,
) -> WriteShares:
    """How much of what is read each token of a text wrote. The text is written again to find out.

    The shares and ``shares.probe.of(state)`` add up to ``probe.of(shares.state)``; so you can use ``shares.probe``
    for the text before it.

    Args:
        model: an attached model.
        input_ids: ``[1, T]``, any length.
        state: the memory before the text, one row, with no segment open.
        probe: how much is read of the memory after it.
        segment_ids: ``[1, T]``, for adapters that write segments.
        write: ``[1, T]`` bool, the tokens that may write; all by default.
        chunk_size: the one that the text was written with.

    Raises:
        ValueError: the shapes do not fit, or segment ids are missing.
    """
    return write_shares_of(
        model, input_ids, state, [probe], segment_ids=segment_ids, write=write, chunk_size=chunk_size
    )[0]


def write_shares_of(
    model: nn.Module,
    input_ids: Tensor,
    state: MemoryState,
    probes: Sequence[ReadProbe],
    *,
    segment_ids: Tensor | None = None,
    write: Tensor | None = None,
    chunk_size: int = CHUNK,
) -> list[WriteShares]:
    """:func:`write_shares` for several probes of one memory: the text is written again once for all of them."""
    attachment = attached(model)
    size, length = chunk_length(attachment.base, chunk_size), input_ids.shape[1]
    counts = torch.ones(1, length, device=attachment.base.device, requires_grad=True)
    begun = tuple(matrices.detach().clone().requires_grad_() for matrices in state.states)
    # The memory twice: as the backbone sees it, and as a function of what is there before and what each token writes.
    watched = replace(state, states=begun)
    for start in range(0, length, size):
        part = slice(start, start + size)

        def step(memory: MemoryState, inputs: dict[int, Tensor] | None = None, part: slice = part) -> Step:
            return Step(
                memory,
                write=True if write is None else write[:, part],
                segment_ids=None if segment_ids is None else segment_ids[:, part],
                close=part.stop >= length,
                inputs=inputs,
            )

        inputs: dict[int, Tensor] = {}
        seen, again = step(state, inputs), step(watched)
        with torch.no_grad():
            attachment.base(input_ids=input_ids[:, part].to(counts.device), memory=seen, use_cache=False)
        again.begin(attachment.config, 1, seen.length, seen.device)
        with torch.enable_grad():
            for layer, memory in enumerate(attachment.memories()):
                x = inputs[layer]
                again.put(layer, *memory.write_weighted(x, counts[:, part].to(x.device), *again.take(layer, x.device)))
        state, watched = seen.new_state, again.new_state
    found: list[WriteShares] = []
    for probe in probes:
        with torch.enable_grad():
            read = torch.stack([(w * s).sum().cpu() for w, s in zip(probe.weights, watched.states, strict=True)]).sum()
        keep = len(found) + 1 < len(probes)
        shares, *before = torch.autograd.grad(read, (counts, *begun), materialize_grads=True, retain_graph=keep)
        found.append(WriteShares(shares[0].cpu(), ReadProbe(tuple(before)), state))
    return found


def write_strengths(
    model: nn.Module,
    input_ids: Tensor,
    state: MemoryState,
    *,
    segment_ids: Tensor,
    write: Tensor,
    check: Check = lambda: None,
) -> tuple[Tensor, MemoryState]:
    """The norm of each token's change to the memory, and the memory after the last.

    The text goes through the backbone in the chunks in which it was written. Then the memories take what they saw
    token by token, so that every state between two tokens is there to be compared. A segment's change is that of the
    token at which it closes.

    Args:
        model: an attached model.
        input_ids: ``[1, T]``, any length.
        state: the memory before, one row.
        segment_ids: ``[1, T]``; read by adapters that write segments.
        write: ``[1, T]`` bool, the tokens that may write.
        check: called at every chunk and token; raises if nobody waits for the result any more.

    Returns:
        ``[T]`` float32 on the CPU, and the memory.
    """
    attachment = attached(model)
    chunk = chunk_length(attachment.base, CHUNK)
    device = attachment.base.device
    ids, segments, write = (tensor.to(device) for tensor in (input_ids, segment_ids, write))
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


def read_strengths(model: nn.Module, ids: Sequence[int], state: MemoryState, check: Check = lambda: None) -> Tensor:
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
