"""Batches: rows that generate together and join and leave at any token, and texts that are written together."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from deltamem.attach import attached
from deltamem.attach.cache import PAST
from deltamem.observe import CHUNK, chunk_length, observe
from deltamem.serve.engine.jobs import Row, Writing
from deltamem.state import MemoryState
from deltamem.step import Step

_ATTENTIONS = ("sdpa", "eager")
_SPARE = 64


def check_model(model: PreTrainedModel) -> None:
    """Refuses a model whose rows cannot be batched.

    Raises:
        ValueError: it carries no memory, or its attention is of a kind whose cache cannot be kept by rows.
    """
    attachment = attached(model)
    config = attachment.base.config.get_text_config(decoder=True)
    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers if type(layer) is not DynamicLayer}
    if kinds:
        raise ValueError(
            f"This backbone keeps {', '.join(sorted(kinds))}; the engine batches backbones whose layers all attend to "
            "everything before them. Use a Session for this one, or another backbone."
        )
    if not all(site.family.keywords for site in attachment.sites):
        raise ValueError(
            f"{type(model).__name__}'s blocks pass no keywords on, which the engine needs. Use a Session for this "
            "backbone, or another one."
        )
    if config._attn_implementation not in _ATTENTIONS:
        raise ValueError(
            f"The engine masks each row separately, which attention {config._attn_implementation!r} does not support; "
            f"load the backbone with attn_implementation= one of {', '.join(_ATTENTIONS)}."
        )


class RowBatch:
    """Rows that are fed together, each at a position of its own.

    Row i holds its tokens in places ``0 … fed - 1`` of the keys and values, so that its positions are what
    they are when it is alone. What lies beyond belongs to no one and is masked.

    Args:
        model: a model that :func:`check_model` passed.
        limit: how many positions a row may have.
    """

    def __init__(self, model: PreTrainedModel, limit: int) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._attachment = attached(model)
        self._limit = limit
        self._cache = _RowCache(len(self._attachment.sites))
        self._memory: MemoryState | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Row, source: "RowBatch | None" = None) -> None:
        """Takes a row in, with the keys and values that it has in another batch."""
        if source is not None:
            self._cache.copy_row(source._cache, source.rows.index(row), len(self.rows), row.fed)
        self.rows.append(row)
        self._memory = None

    def remove(self, row: Row) -> None:
        """Lets a row go; the last one takes its place."""
        place, last = self.rows.index(row), self.rows[-1]
        if last is not row:
            self._cache.copy_row(self._cache, len(self.rows) - 1, place, last.fed)
            self.rows[place] = last
        self.rows.pop()
        self._cache.wipe(len(self.rows))
        self._memory = None
        if not self.rows:
            self.clear()

    def clear(self) -> None:
        """Lets all rows go and gives their memory back."""
        self.rows.clear()
        self._memory = None
        self._cache.release()

    def feed(self, budget: int) -> tuple[list[Row], Tensor | None]:
        """One forward pass over the next tokens of every row.

        Args:
            budget: the most tokens of all rows together; every row gets one at least.

        Returns:
            the rows that were fed all they have, and the logits ``[rows, V]`` after the last token of each.
        """
        share = max(1, budget // len(self.rows))
        parts = [row.tokens[row.fed : row.fed + share] for row in self.rows]
        width = max(map(len, parts))
        device = self._attachment.base.device
        ids = torch.tensor([part + [part[-1]] * (width - len(part)) for part in parts], device=device)
        lengths = torch.tensor([len(part) for part in parts], device=device)
        start = torch.tensor([row.fed for row in self.rows], device=device)
        steps = torch.arange(width, device=device)
        places = start[:, None] + steps
        for row, part in zip(self.rows, parts, strict=True):
            row.fed += len(part)
        whole = [number for number, row in enumerate(self.rows) if row.fed == len(row.tokens)]
        lasts = sorted({len(parts[number]) - 1 for number in whole})
        logits = self._forward(ids, places, steps < lengths[:, None], lasts)
        if logits is None:
            return [], None
        at_last = [lasts.index(len(parts[number]) - 1) for number in whole]
        return [self.rows[number] for number in whole], logits[whole, at_last]

    def _forward(self, ids: Tensor, places: Tensor, real: Tensor, lasts: list[int]) -> Tensor | None:
        """Logits ``[B, len(lasts), V]`` at the given places of the input; ``None`` if none are."""
        if self._memory is None:
            self._memory = MemoryState.stack([row.state for row in self.rows])
        reach = int(places.max()) + 1
        self._cache.begin(places, reach)
        dtype = self._attachment.base.dtype
        seen = torch.arange(reach, device=ids.device) <= places[:, None, :, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=ids.device).masked_fill_(~seen, torch.finfo(dtype).min)
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": places.clamp(max=self._limit - 1),
            PAST: self._cache,
            "use_cache": True,
            "memory": Step(self._memory, write=False, mask=real),
        }
        if not lasts:
            self._attachment.base(**arguments)
            return None
        logits: Tensor = self.model(**arguments, logits_to_keep=torch.tensor(lasts, device=ids.device)).logits
        return logits


class WriteBatch:
    """Jobs that write, chunk by chunk.

    Args:
        model: an attached model.
        tokens: the most tokens of all rows of a pass, padding counted; a chunk of one job is always let through.
    """

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        self.jobs: list[Writing] = []
        self._model = model
        self._attachment = attached(model)
        self._segments = self._attachment.config.writes_segments
        self._chunk = chunk_length(self._attachment.base, CHUNK)
        self._tokens = max(self._chunk, tokens)

    def __len__(self) -> int:
        return len(self.jobs)

    def next_part(self) -> list[Writing]:
        """The jobs whose next chunks go through together: of like kind, and within the bound on their tokens."""
        first = self.jobs[0]
        part: list[Writing] = []
        for job in self.jobs:
            longest = max(self._left(other) for other in (*part, job))
            alike = not self._segments or self._closes(job) == self._closes(first)
            if alike and (not part or longest * (len(part) + 1) <= self._tokens):
                part.append(job)
        return part

    def write(self, part: list[Writing]) -> list[Writing]:
        """Writes the next chunk of each job and gives the jobs that are done with it."""
        lengths = [self._left(job) for job in part]
        width = max(lengths)
        device = self._attachment.base.device

        def padded(name: str) -> Tensor:
            rows = [
                torch.nn.functional.pad(getattr(job, name)[:, job.done : job.done + n], (0, width - n))
                for job, n in zip(part, lengths, strict=True)
            ]
            return torch.cat(rows).to(device)

        even = min(lengths) == width
        real = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
        state = observe(
            self._model,
            padded("ids"),
            MemoryState.stack([job.state for job in part]),
            attention_mask=None if even else real.long().to(device),
            segment_ids=padded("segments") if self._segments else None,
            write=padded("write"),
            close=self._closes(part[0]),
            chunk_size=width,
        )
        for number, (job, length) in enumerate(zip(part, lengths, strict=True)):
            job.state = state.row(number)
            job.done += length
        return [job for job in part if job.done >= job.ids.shape[1]]

    def _left(self, job: Writing) -> int:
        return min(self._chunk, job.ids.shape[1] - job.done)

    def _closes(self, job: Writing) -> bool:
        return job.done + self._chunk >= job.ids.shape[1]


class _RowCache(Cache):
    """Keys and values that are written at places which differ from row to row."""

    def __init__(self, layers: int) -> None:
        self._rows = [_RowLayer() for _ in range(layers)]
        super().__init__(layers=[*self._rows])

    def begin(self, places: Tensor, reach: int) -> None:
        """The next call feeds tokens at ``places`` ``[B, T]``, none of them at ``reach`` or beyond."""
        index = torch.arange(len(places), device=places.device)[:, None]
        for layer in self._rows:
            layer.begin(index, places, reach)

    def copy_row(self, source: "_RowCache", row: int, to: int, length: int) -> None:
        """Copies a row of another cache, or of this one, up to ``length``."""
        for mine, other in zip(self._rows, source._rows, strict=True):
            mine.copy_row(other, row, to, length)

    def wipe(self, row: int) -> None:
        """Zeroes a row that has left: what is masked still must be finite."""
        for layer in self._rows:
            layer.wipe(row, 0)

    def release(self) -> None:
        """Gives the memory back."""
        for layer in self._rows:
            layer.keys = layer.values = None


class _RowLayer(CacheLayerMixin):
    """Keys and values ``[rows, places, heads, D]`` of one layer; both dimensions grow as they are needed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def begin(self, index: Tensor, places: Tensor, reach: int) -> None:
        self._index, self._places, self._reach = index, places, reach

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is allocated before it is used."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes ``[B, heads, T, D]`` and gives the keys and values of the rows up to the reach of the call."""
        rows = len(key_states)
        self.keys = _grown(self.keys, key_states.transpose(1, 2), rows, self._reach)
        self.values = _grown(self.values, value_states.transpose(1, 2), rows, self._reach)
        self.keys[self._index, self._places] = key_states.transpose(1, 2)
        self.values[self._index, self._places] = value_states.transpose(1, 2)
        return self.keys[:rows, : self._reach].transpose(1, 2), self.values[:rows, : self._reach].transpose(1, 2)

    def copy_row(self, source: "_RowLayer", row: int, to: int, length: int) -> None:
        if length:  # a row that was not fed yet has no place in the buffers
            assert source.keys is not None
            assert source.values is not None
            self.keys = _grown(self.keys, source.keys, to + 1, length)
            self.values = _grown(self.values, source.values, to + 1, length)
            self.keys[to, :length] = source.keys[row, :length]
            self.values[to, :length] = source.values[row, :length]
        self.wipe(to, length)

    def wipe(self, row: int, start: int) -> None:
        if self.keys is not None and self.values is not None:
            self.keys[row : row + 1, start:] = 0
            self.values[row : row + 1, start:] = 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The length and offset of what the next call attends to."""
        return self._reach, 0

    def get_seq_length(self) -> int:
        """The most tokens that a row holds before the call."""
        return self._reach - self._places.shape[1]

    def get_max_length(self) -> int:
        """None."""
        return -1


def _grown(held: Tensor | None, like: Tensor, rows: int, length: int) -> Tensor:
    """A buffer ``[rows, length, heads, D]`` at least, with what was held; ``like`` gives dtype and last sizes."""
    if held is not None and held.shape[0] >= rows and held.shape[1] >= length:
        return held
    before = (0, 0) if held is None else (held.shape[0], held.shape[1])
    size = [
        before[0] if rows <= before[0] else max(rows, 2 * before[0]),
        before[1] if length <= before[1] else max(length + _SPARE, 2 * before[1]),
    ]
    grown = like.new_zeros(*size, *like.shape[2:])
    if held is not None:
        grown[: before[0], : before[1]] = held
    return grown
