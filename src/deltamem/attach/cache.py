"""The cache of generation: keys and values beside the memory, reordered and repeated together."""

import inspect
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin

from deltamem.state import MemoryState
from deltamem.step import Step

OLD_PAST = "past_key_values"
# The keyword by which models take their cache. transformers 5.24 has renamed it, and takes the old one until 5.40.
PAST = "cache" if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else OLD_PAST
# Generated tokens form a segment of their own, after all segments of the prompt.
GENERATED_SEGMENT = 2**31 - 1


def rename_past(keywords: dict[str, Any]) -> None:
    """Gives a call's cache the name by which this version of transformers takes it."""
    if OLD_PAST in keywords and PAST not in keywords:
        keywords[PAST] = keywords.pop(OLD_PAST)


class MemoryCache(DynamicCache):
    """A ``past_key_values`` that also carries the memory from call to call.

    Make one with :func:`deltamem.memory_cache`, pass it to ``generate`` or to the model, and read
    :attr:`memory` afterwards: it has one row for each returned sequence, in their order. After beam
    search no keys and values are left, because those of a sequence that ended early are gone.

    Args:
        config: the backbone's configuration.
        memory: the state to start from, one row for each prompt; ``None`` starts empty.
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
        super().__init__(config=config.get_text_config(decoder=True))
        self.memory = memory
        self.write = write
        self.segment_ids = segment_ids
        self.step: Step | None = None
        self._stops: Tensor | None = None
        self._prompt_end = 0
        self._finished: Tensor | None = None
        self._passes: list[MemoryState] | None = None
        self._beams_ended = False

    @property
    def position(self) -> int:
        """How many tokens of each row the cache holds, padding included."""
        return int(self.get_seq_length())

    def begin_generation(self, prompt_end: int, stops: set[int], *, beams: bool) -> None:
        """From position ``prompt_end`` on a row that is fed a token of ``stops`` is finished.

        Neither that token nor anything after it is written, so a row's memory does not depend on how
        long its batch neighbours run. With ``beams`` the memories after each pass are kept for
        :meth:`keep_returned`, a few kilobytes a beam and token.
        """
        self._prompt_end = prompt_end
        self._stops = torch.tensor(sorted(stops)) if stops else None
        self._finished = None
        self._passes = [] if beams else None

    def end_generation(self) -> None:
        """Marks the end of a reply: what comes from now on finishes no row."""
        self._stops = self._finished = self._passes = None

    def keep_returned(self, beams: Tensor) -> None:
        """Ends a beam search: the memory gets one row for each returned sequence, without its last token.

        Args:
            beams: ``[S, T]``, the row of the pass that each token of each returned sequence was drawn
                from, then -1: ``beam_indices`` of the library.
        """
        assert self._passes is not None
        rows = []
        for number, drawn in enumerate(beams.tolist()):
            last = max(sum(row >= 0 for row in drawn) - 1, 0)
            # A prompt that allows fewer sequences than were asked for comes back as it was, drawn from no row.
            row = drawn[last] if drawn[last] >= 0 else number * self._passes[0].batch // len(beams)
            rows.append(self._passes[last].row(row))
        self.reset()
        self.memory = MemoryState.stack(rows)
        self._beams_ended = True

    def expand(self, batch: int) -> None:
        """Repeats the rows so that they fit a prompt that was repeated for beams or return sequences.

        Raises:
            ValueError: the batch is not a multiple of the rows, the keys and values are not empty, or the
                cache has been through a beam search.
        """
        if self._beams_ended:
            raise ValueError(
                "This cache has been through a beam search and holds no keys and values of the sequences it returned. "
                "Continue with deltamem.memory_cache(model, cache.memory), and pass only what is new."
            )
        memory, ids = self.memory, self.segment_ids
        if memory is not None and memory.batch != batch:
            self.memory = memory.repeat_interleave(self._times("The memory", memory.batch, batch))
        if ids is not None and len(ids) != batch:
            self.segment_ids = ids.repeat_interleave(self._times("segment_ids", len(ids), batch), dim=0)

    def _times(self, name: str, rows: int, batch: int) -> int:
        if self.position or batch % rows:
            raise ValueError(f"{name} has {rows} rows and the input {batch}; they must be equal.")
        return batch // rows

    def new_step(self, state: MemoryState, tokens: Tensor | None, mask: Tensor | None, length: int) -> Step:
        """The step of the next call, which feeds ``length`` tokens (``tokens`` ``[B, length]`` if known)."""
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
        if self._passes is not None and self.memory is not None:
            self._passes.append(self.memory)
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
        """Drops the keys and values, and the prompt's segment ids; the memory stays."""
        super().reset()  # type: ignore[no-untyped-call]
        self.segment_ids = None
        self._beams_ended = False

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
