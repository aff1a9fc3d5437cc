"""The memory as a value: what one or many sessions remember, independent of any module."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

NO_SEGMENT = -1
# How many rows a printed state tells of.
_SHOWN = 8


@dataclass(frozen=True)
class OpenSegment:
    """The segment that each row is in the middle of (segment writes only).

    Attributes:
        sums: for each adapted layer ``[B, P]``, the running sum of the tokens' projections.
        count: ``[B]``, how many tokens those sums hold.
        segment: ``[B]``, the id of the open segment, or -1.
    """

    sums: tuple[Tensor, ...]
    count: Tensor
    segment: Tensor


@dataclass(frozen=True, repr=False)
class MemoryState:
    """The state of every adapted layer, for a batch of rows that may be different sessions.

    Nothing changes a ``MemoryState``: a forward pass takes one and returns a new one, so you can keep,
    fork, batch, roll back and send a state freely.

    Attributes:
        states: for each adapted layer a float32 tensor ``[B, N, R, R]``.
        tokens: ``[B]`` int64, how many tokens each row has written.
        open: what is pending of a segment not yet closed; ``None`` when writing tokens.
        before: for each adapted layer ``[B, N·R]``, what the last token adds to the write address of the next one;
            ``None`` where addresses are made from one token.
    """

    states: tuple[Tensor, ...]
    tokens: Tensor
    open: OpenSegment | None = None
    before: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if not self.states:
            raise ValueError("A memory state needs at least one layer.")
        shape = self.states[0].shape
        fits = len(shape) == 4 and shape[2] == shape[3]
        for layer, state in enumerate(self.states):
            if state.dtype != torch.float32:
                raise ValueError(f"State {layer} is {state.dtype}; states are float32.")
            if not fits or state.shape != shape:
                raise ValueError(f"State {layer} has shape {tuple(state.shape)}; wanted [B, N, R, R] throughout.")
        _check_counts("tokens", self.tokens, shape[0])
        if self.before is not None:
            _check_layers("before", self.before, len(self.states), (shape[0], shape[1] * shape[2]))
        if self.open is None:
            return
        _check_counts("open.count", self.open.count, shape[0])
        _check_counts("open.segment", self.open.segment, shape[0])
        width = self.open.sums[0].shape[-1] if self.open.sums else 0
        _check_layers("open.sum", self.open.sums, len(self.states), (shape[0], width))

    def __repr__(self) -> str:
        """What it is, without its numbers: they fill pages."""
        batch, states, rank = self.states[0].shape[:3]
        written = ", ".join(map(str, self.tokens[:_SHOWN].tolist())) + (", …" if batch > _SHOWN else "")
        return (
            f"MemoryState(layers={len(self.states)}, batch={batch}, states={states}, rank={rank}, tokens=[{written}], "
            f"bytes={self.nbytes}, device={self.tokens.device})"
        )

    @classmethod
    def zeros(
        cls,
        layers: int,
        batch: int,
        states: int,
        rank: int,
        *,
        pending: int = 0,
        key_tokens: int = 1,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Empty memories: ``layers`` tensors ``[batch, states, rank, rank]`` of zeros.

        With segment writes ``pending`` is P, the width of what an open segment sums up, else 0. ``key_tokens`` is the
        configuration's.
        """

        def zeros(*shape: int) -> tuple[Tensor, ...]:
            return tuple(torch.zeros(batch, *shape, dtype=torch.float32, device=device) for _ in range(layers))

        empty = zeros(states, rank, rank)
        tokens = torch.zeros(batch, dtype=torch.int64, device=device)
        if not pending:
            return cls(empty, tokens, before=zeros(states * rank) if key_tokens > 1 else None)
        opened = OpenSegment(
            sums=zeros(pending),
            count=torch.zeros(batch, dtype=torch.int64, device=device),
            segment=torch.full((batch,), NO_SEGMENT, dtype=torch.int64, device=device),
        )
        return cls(empty, tokens, opened)

    @property
    def batch(self) -> int:
        """B, the number of rows."""
        return self.states[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the states of all rows, without what is pending."""
        return sum(state.numel() * state.element_size() for state in self.states)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a stable name; each has the rows first. The inverse of :meth:`from_tensors`."""
        named = {f"state.{i}": state for i, state in enumerate(self.states)} | {"tokens": self.tokens}
        named |= {f"before.{i}": adds for i, adds in enumerate(self.before or ())}
        if self.open is not None:
            named |= {f"open.sum.{i}": total for i, total in enumerate(self.open.sums)}
            named |= {"open.count": self.open.count, "open.segment": self.open.segment}
        return named

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> Self:
        """A state from the tensors of :meth:`tensors`.

        Raises:
            ValueError: a tensor is missing, left over, or has the wrong shape or dtype.
        """
        rest = dict(named)
        layers = sum(name.startswith("state.") for name in named)
        try:
            states = tuple(rest.pop(f"state.{i}") for i in range(layers))
            tokens = rest.pop("tokens")
            opened = None
            if "open.count" in rest:
                opened = OpenSegment(
                    sums=tuple(rest.pop(f"open.sum.{i}") for i in range(layers)),
                    count=rest.pop("open.count"),
                    segment=rest.pop("open.segment"),
                )
            before = tuple(rest.pop(f"before.{i}") for i in range(layers)) if "before.0" in rest else None
        except KeyError as missing:
            raise ValueError(f"The memory state lacks the tensor {missing}.") from None
        if rest:
            raise ValueError(f"The memory state has unknown tensors: {', '.join(sorted(rest))}.")
        return cls(states, tokens, opened, before)

    def select(self, rows: Tensor | Sequence[int]) -> Self:
        """The rows with the given numbers, in that order, repeats allowed: fork, reorder or drop sessions."""
        index = torch.as_tensor(rows)
        if index.dim() != 1 or (index.numel() and (index.is_floating_point() or index.dtype == torch.bool)):
            raise ValueError(f"rows must be row numbers, not {index.dtype} {tuple(index.shape)}.")
        index = index.to(torch.int64)
        return self.from_tensors({k: v.index_select(0, index.to(v.device)) for k, v in self.tensors().items()})

    def row(self, row: int) -> Self:
        """One row, as a state with B = 1."""
        return self.select([row])

    def repeat_interleave(self, times: int) -> Self:
        """Every row ``times`` times in a row, as ``generate`` does for beams and return sequences."""
        return self.select(torch.arange(self.batch).repeat_interleave(times))

    @classmethod
    def stack(cls, rows: Sequence[Self]) -> Self:
        """One batch of the rows of several states, in order.

        Raises:
            ValueError: the states belong to adapters of different shapes.
        """
        if not rows:
            raise ValueError("Nothing to stack.")
        tensors = [state.tensors() for state in rows]
        shapes = [{name: tensor.shape[1:] for name, tensor in t.items()} for t in tensors]
        if any(s != shapes[0] for s in shapes):
            raise ValueError("These states belong to adapters of different shapes; they cannot share a batch.")
        return cls.from_tensors({name: torch.cat([t[name] for t in tensors]) for name in tensors[0]})

    def to(self, device: torch.device | str) -> Self:
        """The same state on another device; itself if it is there."""
        named = self.tensors()
        moved = {name: tensor.to(device) for name, tensor in named.items()}
        return self if all(moved[name] is tensor for name, tensor in named.items()) else self.from_tensors(moved)

    def detach(self) -> Self:
        """The same numbers without their gradient history."""
        return self.from_tensors({name: tensor.detach() for name, tensor in self.tensors().items()})

    def norms(self) -> Tensor:
        """Frobenius norm of every state matrix: ``[L, B, N]``."""
        return torch.stack([state.norm(dim=(-2, -1)).cpu() for state in self.states])

    def diff(self, other: Self) -> Tensor:
        """Frobenius norm of the change from ``other`` to this, state by state: ``[L, B, N]``."""
        changed = tuple(a - b.to(a.device) for a, b in zip(self.states, other.states, strict=True))
        return replace(self, states=changed).norms()


def _check_layers(name: str, tensors: tuple[Tensor, ...], layers: int, shape: tuple[int, int]) -> None:
    if len(tensors) != layers:
        raise ValueError(f"{name} has {len(tensors)} tensors for {layers} layers.")
    for layer, tensor in enumerate(tensors):
        if tensor.dtype != torch.float32 or tensor.shape != shape:
            raise ValueError(f"{name}.{layer} is {tensor.dtype} {tuple(tensor.shape)}; wanted float32 {list(shape)}.")


def _check_counts(name: str, counts: Tensor, batch: int) -> None:
    if counts.dtype != torch.int64 or counts.shape != (batch,):
        raise ValueError(f"{name} is {counts.dtype} {tuple(counts.shape)}; wanted int64 [{batch}].")
