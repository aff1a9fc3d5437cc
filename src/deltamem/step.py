"""One forward pass's dealings with the memory: what goes in, what is asked, what comes out."""

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from deltamem.config import DeltaMemConfig
from deltamem.ops import decode
from deltamem.state import MemoryState, OpenSegment
from deltamem.writing import ReadPlan, SegmentPlan, TokenPlan, WritePlan, plan_segments

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


class Step:
    """Passed to a model as ``model(input_ids, memory=step)``; afterwards ``step.new_state`` is the new memory.

    Args:
        state: the memory that the pass starts from, one row for each batch row.
        write: ``False`` reads only. A bool tensor ``[B, T]`` or ``[B, 1]`` says which tokens may write.
        mask: ``[B, T]`` bool, the real tokens. Taken from a two-dimensional ``attention_mask`` if not given.
        segment_ids: ``[B, T]`` integers, for adapters that write segments: neighbours with equal ids form
            one segment, -1 belongs to none.
        close: also end the segment that the last token is in. Otherwise it stays open for the next call.
        gates: a dict to fill with the write gates β of each adapted layer, ``[B, T, G]``, by the layer's place.
        inputs: a dict to fill with the input ``[B, T, D]`` of each adapted layer, by the layer's place.

    A step serves one forward pass; make a new one for the next.
    """

    def __init__(
        self,
        state: MemoryState,
        *,
        write: bool | Tensor = True,
        mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        close: bool = False,
        gates: dict[int, Tensor] | None = None,
        inputs: dict[int, Tensor] | None = None,
    ) -> None:
        self.state = state
        self.write = write
        self.mask = mask
        self.segment_ids = segment_ids
        self.close = close
        self.gates = gates
        self.inputs = inputs
        self.length = 0
        self.device = torch.device("cpu")
        self._plan: WritePlan | None = None
        self._states: dict[int, Tensor] = {}
        self._pending: dict[int, Tensor | None] = {}

    @property
    def plan(self) -> WritePlan:
        """The write plan of this pass, once the pass has begun."""
        if self._plan is None:
            raise RuntimeError(
                "No memory has used this step: pass memory= to the model that deltamem.attach() was given, "
                "not to one of its layers, and not while its memory is disabled."
            )
        return self._plan

    def begin(self, config: DeltaMemConfig, batch: int, length: int, device: torch.device) -> None:
        """Checks the step against the call it is about to serve and fixes the write plan.

        Raises:
            ValueError: a shape does not fit, or segment ids are missing.
            RuntimeError: the step has served a pass already.
        """
        if self._plan is not None:
            raise RuntimeError("A memory step serves one forward pass; make a new Step for each call.")
        if self.state.batch != batch:
            raise ValueError(f"The memory has {self.state.batch} rows and the input {batch}; they must be equal.")
        self.length = length
        self.device = device
        if any(tensor.device != device for tensor in (self.state.tokens, *self.state.states)):
            self.state = self.state.to(device)
        self.mask = _check("mask", self.mask, batch, length, device)
        decoding = length == 1 and decode.serves(self.state.tokens, config.rank)
        if self.write is False:
            self._plan = ReadPlan(self.mask, decoding)
            return
        writable = None if self.write is True else _check("write", self.write, batch, length, device)
        if config.writes_segments:
            self._plan = self._plan_segments(config, writable, batch, length)
            return
        if (config.key_tokens > 1) != (self.state.before is not None):
            made_for = "one token" if self.state.before is None else "two tokens"
            raise ValueError(
                f"This memory was made for write addresses of {made_for}; make an empty one with "
                "deltamem.new_state(model, batch)."
            )
        allowed = [m for m in (self.mask, writable) if m is not None]
        written = functools.reduce(torch.logical_and, allowed).sum(1) if allowed else length
        self._plan = TokenPlan(self.mask, writable, written, decoding and writable is None)

    def _plan_segments(self, config: DeltaMemConfig, writable: Tensor | None, batch: int, length: int) -> SegmentPlan:
        ids = self.segment_ids
        if ids is None:
            raise ValueError(
                f"This adapter writes once per {config.write} and needs segment ids: pass segment_ids "
                "(deltamem.encode_chat(...).segment has them for messages), or write=False to read only."
            )
        if ids.dtype not in _INTEGERS:
            raise ValueError(f"segment_ids must be integers, not {ids.dtype}.")
        if ids.shape != (batch, length):
            raise ValueError(f"segment_ids has shape {tuple(ids.shape)}; wanted [{batch}, {length}].")
        if self.state.open is None:
            raise ValueError(
                "This memory was made for token writes; make an empty one with deltamem.new_state(model, batch)."
            )
        by_call = config.segment_reads == "call"
        return plan_segments(
            ids.to(self.state.tokens.device),
            self.mask,
            writable,
            self.state.open,
            close=self.close or by_call,
            reads_call_start=by_call,
        )

    def take(self, layer: int, device: torch.device) -> tuple[Tensor, WritePlan, Tensor | None]:
        """What adapted layer ``layer`` starts from, on its device: state, plan and what is pending."""
        plan, state, opened = self.plan, self.state.states[layer], self.state.open
        left = self.state.before if opened is None else opened.sums
        pending = None if left is None else left[layer]
        if device == self.device:
            return state, plan, pending
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(plan).items() if isinstance(v, Tensor)}
        if not isinstance(plan, SegmentPlan):
            moved["decoding"] = False
        plan = dataclasses.replace(plan, **moved)
        return state.to(device), plan, None if pending is None else pending.to(device)

    def put(self, layer: int, state: Tensor, pending: Tensor | None) -> None:
        """Called by adapted layer ``layer`` with its new state ``[B, N, R, R]`` and what is pending of it."""
        if layer not in self._states:  # gradient checkpointing calls again, with what it recomputed
            self._states[layer] = state
            self._pending[layer] = pending

    @property
    def new_state(self) -> MemoryState:
        """The memory after the pass."""
        plan = self.plan
        layers = range(len(self.state.states))
        if len(self._states) < len(layers):
            raise RuntimeError("The forward pass has not finished; its new memory is not complete.")
        if isinstance(plan, ReadPlan):
            return self.state
        states = tuple(self._states[i] for i in layers)
        tokens = self.state.tokens + plan.written
        pending = tuple(left for i in layers if (left := self._pending[i]) is not None)
        if isinstance(plan, SegmentPlan):
            return MemoryState(states, tokens, OpenSegment(pending, plan.open_count, plan.open_segment))
        return MemoryState(states, tokens, before=pending if self.state.before else None)


def _check(name: str, flags: bool | Tensor | None, batch: int, length: int, device: torch.device) -> Tensor | None:
    if flags is None or isinstance(flags, bool):
        return None
    if flags.dim() != 2 or flags.shape[0] != batch or flags.shape[1] not in (1, length):
        raise ValueError(f"{name} has shape {tuple(flags.shape)}; wanted [{batch}, {length}].")
    return flags.to(device, torch.bool).expand(batch, length)
