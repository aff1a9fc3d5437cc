"""The scan on GPUs: which kernels run, over what.

Few rows of many tokens are cut into chunks of SPAN, so that a long sequence is not one program walking it:
1. every chunk on its own finds its affine map of the state, by walking a basis through it (`walk` with BASIS);
2. `carry` takes the state through the maps, chunk by chunk: T / SPAN short steps;
3. every chunk, now knowing what it begins with, walks its tokens and reads.
The gradient does the same from both ends, then every BLOCK tokens on their own find theirs (`gradients`).
Many rows, or short ones, fill the device by themselves: a row is then one chunk, and steps 1 and 2 fall away.

No state a token is kept: the passes hold one a SPAN (R + 2 with the map), the gradient two a BLOCK while it runs.
"""

from typing import Any

import torch
from torch import Tensor

from .inputs import ScanInputs

SPAN = 64
BLOCK = 8
_WARPS = 2048  # warps that a device runs at once, roughly; with more rows than fill it the chunks only add work


def in_chunks(rows: int, length: int, rank: int) -> bool:
    """Whether `rows` = B * N sequences of `length` are cut into chunks: long ones that would leave the device idle."""
    return length >= 4 * SPAN and rows * (rank + 2) * _warps(rank) <= _WARPS


def _warps(rank: int) -> int:
    return 1 if rank <= 16 else 4


def forward(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Reads [B, T, N, R] and the final state [B, N, R, R], float32 (see `deltamem.ops.scan`)."""
    passes = _Passes(inputs)
    reads = passes.empty(inputs.q.shape)
    begin = inputs.state.float().contiguous()
    if passes.chunks == 1:
        return reads, passes.walk(begin, reads=reads, end=passes.empty(begin.shape))
    begin, final = passes.carry(passes.maps(), begin)
    passes.walk(begin, reads=reads)
    return reads, final


def backward(grad_reads: Tensor, grad_final: Tensor, inputs: ScanInputs) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, keep, erase, write [B, T, N, R] and state [B, N, R, R], float32."""
    passes = _Passes(inputs, grad_reads.contiguous())
    begin, finish = inputs.state.float().contiguous(), grad_final.float().contiguous()
    if passes.chunks == 1:
        grad_state = passes.empty(begin.shape)
        grad_states = passes.kept()
        passes.walk(finish, states=grad_states, end=grad_state, adjoint=True)
    else:
        maps = passes.maps()
        begin, _ = passes.carry(maps, begin)
        added = passes.walk(torch.zeros_like(begin), end=torch.empty_like(begin), adjoint=True)
        finish, grad_state = passes.carry(maps, finish, added)
        grad_states = passes.kept()
        passes.walk(finish, states=grad_states, adjoint=True)
    states = passes.kept()
    passes.walk(begin, states=states)
    return (*passes.gradients(states, grad_states), grad_state.view(inputs.state.shape))


class _Passes:
    """The launches over one set of tokens [B, T, N, R], in any floating dtype."""

    def __init__(self, inputs: ScanInputs, grad_reads: Tensor | None = None) -> None:
        from . import triton_kernels

        self.kernels: Any = triton_kernels
        self.tokens = [x.contiguous() for x in inputs[:6]]
        self.batch, self.length, self.states, self.rank = inputs.q.shape
        self.rows = self.batch * self.states
        self.span = SPAN if in_chunks(self.rows, self.length, self.rank) else self.length
        self.chunks = -(-self.length // self.span) if self.length else 1
        self.blocks = -(-self.length // BLOCK)
        self.mask = None if inputs.mask is None else inputs.mask.contiguous()
        self.grad_reads = grad_reads
        tile = max(2, 1 << (self.rank - 1).bit_length())
        self.constants = {"R": self.rank, "TILE": tile, "num_warps": _warps(self.rank), "enable_fp_fusion": True}

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.tokens[0].device)

    def kept(self) -> Tensor:
        """Room for a state every BLOCK tokens."""
        return self.empty((self.rows, self.blocks, self.rank, self.rank))

    def walk(
        self,
        begin: Tensor | None,
        reads: Tensor | None = None,
        states: Tensor | None = None,
        end: Tensor | None = None,
        adjoint: bool = False,
    ) -> Tensor:
        """Walk every chunk from its `begin`, or a basis through it where that is None, filling what is given."""
        unused = self.tokens[0]
        if self.rows:
            with torch.cuda.device_of(unused):
                self.kernels.walk[(self.rows * self.chunks, 1 if begin is not None else self.rank + 1)](
                    *self.tokens,
                    *(unused if x is None else x for x in (self.mask, self.grad_reads, begin, reads, states, end)),
                    self.length,
                    self.states,
                    self.span,
                    self.chunks,
                    BLOCK=BLOCK,
                    MASKED=self.mask is not None,
                    ADJOINT=adjoint,
                    BASIS=begin is None,
                    READ=reads is not None,
                    KEEP=states is not None,
                    END=end is not None,
                    **self.constants,
                )
        return unused if end is None else end

    def maps(self) -> Tensor:
        """Every chunk's affine map, [rows, chunks, R + 1, R, R]: row i of a state goes to s @ m[:R, i] + m[R, i]."""
        return self.walk(None, end=self.empty((self.rows, self.chunks, self.rank + 1, self.rank, self.rank)))

    def carry(self, maps: Tensor, begin: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each chunk begins with [rows, chunks, R, R], and what the last ends with, from `begin` [B, N, R, R].

        With `added` [rows, chunks, R, R] the gradient of the state is carried, from the last chunk to the first.
        """
        entering, final = self.empty((self.rows, self.chunks, self.rank, self.rank)), torch.empty_like(begin)
        adjoint = added is not None
        added = maps[:, :, self.rank] if added is None else added
        if self.rows:
            with torch.cuda.device_of(maps):
                self.kernels.carry[(self.rows, self.rank)](
                    maps,
                    added,
                    begin,
                    entering,
                    final,
                    self.chunks,
                    added.stride(1),
                    ADJOINT=adjoint,
                    **self.constants,
                )
        return entering, final

    def gradients(self, states: Tensor, grad_states: Tensor) -> list[Tensor]:
        """The gradients of the tokens, from the states and their gradients every BLOCK tokens."""
        results = [self.empty(x.shape) for x in self.tokens]
        if self.rows * self.blocks:
            with torch.cuda.device_of(states):
                self.kernels.gradients[(self.rows * self.blocks,)](
                    *self.tokens,
                    self.tokens[0] if self.mask is None else self.mask,
                    self.grad_reads,
                    states,
                    grad_states,
                    *results,
                    self.length,
                    self.states,
                    self.blocks,
                    BLOCK=BLOCK,
                    MASKED=self.mask is not None,
                    **self.constants,
                )
        return results
