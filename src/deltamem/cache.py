"""The cache of generation: keys and values beside the memory, reordered and repeated together."""

from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from deltamem.state import MemoryState
from deltamem.step import Step

# Generated tokens form a segment of their own, after all segments of the prompt.
GENERATED_SEGMENT = 2**31 - 1


class MemoryCache(DynamicCache):
    """A ``past_key_values`` that also carries the memory from call to call.

    Make one with :func:`deltamem.memory_cache`, hand it to ``generate`` or to the model, and read
    :attr:`memory` afterwards. Beam search reorders the memory with the keys and values. After beam
    search the rows are the beams that were still running, in the library's order.

    Args:
        config: the backbone's text configuration.
        memory: the state to start from, one row a prompt; ``None`` starts empty.
        write: ``False`` reads the memory and leaves it unchanged.
        segment_ids: ``[B, T]`` ids of the prompt's tokens, for adapters that write segments. Tokens
            beyond them, the generated ones, form one further segment, which stays open.
    """

    def __init__(
        self,
        config: Any,
        memory: MemoryState | None = None,
        *,
        write: bool = True,
        segment_ids: Tensor | None = None,
    ) -> None:
        super().__init__(config=config)
        self.memory = memory
        self.write = write
        self.segment_ids = segment_ids
        self.step: Step | None = None
        self._stops: Tensor | None = None
        self._prompt_end = 0
        self._finished: Tensor | None = None

    @property
    def position(self) -> int:
        """How many tokens of each row the cache holds, padding included."""
        return int(self.get_seq_length())

    def begin_generation(self, prompt_end: int, stops: set[int]) -> None:
        """From position ``prompt_end`` on a row that is fed a token of ``stops`` is finished.

        Nothing after that is written, nor the token itself, so a row's memory does not depend on how
        long its batch neighbours go on.
        """
        self._prompt_end = prompt_end
        self._stops = torch.tensor(sorted(stops)) if stops else None
        self._finished = None

    def expand(self, batch: int) -> None:
        """Repeats the rows so that they fit a prompt that was repeated for beams or return sequences.

        Raises:
            ValueError: the batch is no multiple of the rows, or the keys and values are not empty.
        """
        if self.memory is None or self.memory.batch == batch:
            return
        if self.position or batch % self.memory.batch:
            raise ValueError(f"The memory has {self.memory.batch} rows and the input {batch}; they must be equal.")
        times = batch // self.memory.batch
        self.memory = self.memory.repeat_interleave(times)
        if self.segment_ids is not None:
            self.segment_ids = self.segment_ids.repeat_interleave(times, dim=0)

    def new_step(self, state: MemoryState, tokens: Tensor | None, mask: Tensor | None, length: int) -> Step:
        """The step of the next call, which feeds ``length`` tokens (``tokens`` ``[B, length]`` if known)."""
        if self.segment_ids is not None and self.segment_ids.shape[0] != state.batch:
            raise ValueError(
                f"segment_ids has {self.segment_ids.shape[0]} rows and the input {state.batch}; they must be equal."
            )
        if self._stops is not None and tokens is not None and self.position >= self._prompt_end:
            alive = self._alive(tokens)
            mask = alive if mask is None else mask.bool() & alive
        return Step(state, write=self.write, mask=mask, segment_ids=self._next_segment_ids(state, length))

    def _alive(self, tokens: Tensor) -> Tensor:
        assert self._stops is not None
        self._stops = self._stops.to(tokens.device)
        stopped = torch.isin(tokens, self._stops).cumsum(1) > 0
        if self._finished is not None:
            stopped = stopped | self._finished[:, None]
        self._finished = stopped[:, -1]
        return ~stopped

    def _next_segment_ids(self, state: MemoryState, length: int) -> Tensor | None:
        if self.segment_ids is None or self.write is False:
            return None
        known = self.segment_ids[:, self.position : self.position + length].to(state.tokens.device)
        beyond = length - known.shape[1]
        return torch.nn.functional.pad(known, (0, beyond), value=GENERATED_SEGMENT)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorders keys, values and memory for beam search."""
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given rows."""
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        super().batch_repeat_interleave(repeats)
        if self.memory is not None:
            self._select(torch.arange(self.memory.batch).repeat_interleave(repeats))

    def _select(self, rows: Tensor) -> None:
        if self.memory is not None:
            self.memory = self.memory.select(rows)
        if self._finished is not None:
            self._finished = self._finished.index_select(0, rows.to(self._finished.device))
        if self.segment_ids is not None:
            self.segment_ids = self.segment_ids.index_select(0, rows.to(self.segment_ids.device))

    def reset(self) -> None:
        """Drops the keys and values, and the prompt's segment ids; the memory stays, which is the point of it."""
        super().reset()  # type: ignore[no-untyped-call]
        self.segment_ids = None

    @property
    def is_croppable(self) -> bool:
        """False: a memory cannot be rolled back token by token."""
        return False

    def crop(self, tokens_to_remove: int) -> None:
        """Not possible.

        Raises:
            ValueError: always, unless nothing is to be removed.
        """
        if tokens_to_remove != 0:
            raise ValueError(_NO_CROP)

    def activate_past_recording(self) -> None:
        """Not possible.

        Raises:
            ValueError: always; assisted decoding asks for it first.
        """
        raise ValueError(_NO_CROP)


_NO_CROP = (
    "A memory cannot forget its last tokens, so a MemoryCache cannot be cropped, and assisted or speculative "
    "decoding cannot run with it. Generate without assistant_model and prompt_lookup_num_tokens."
)
