"""Which tokens of a call write, and when: the plans behind the write strategies (paper section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deltamem.state import NO_SEGMENT, OpenSegment


@dataclass(frozen=True)
class TokenPlan:
    """Every writable token writes as it passes.

    Attributes:
        mask: ``[B, T]`` bool, the real tokens; ``None`` when all are.
        writable: ``[B, T]`` bool, the tokens that may write; ``None`` when all may.
        written: how many tokens of this call write, ``[B]`` or the same for all rows.
        decoding: the call has one token, and the compiled path for those may take it.
    """

    mask: Tensor | None
    writable: Tensor | None
    written: Tensor | int
    decoding: bool = False


@dataclass(frozen=True)
class ReadPlan:
    """Nothing writes; every real token reads the same state.

    Attributes:
        mask: ``[B, T]`` bool, the real tokens; ``None`` when all are.
        decoding: as in :class:`TokenPlan`.
    """

    mask: Tensor | None
    decoding: bool = False


@dataclass(frozen=True)
class SegmentPlan:
    """One write a segment, at the point where it closes.

    The real tokens of a row form *runs* of equal segment id; run 0 continues the segment left open by
    the call before. A call of T tokens has T + 1 *slots* where a run may close: before each token, and
    after the last.

    Attributes:
        mask: ``[B, T]`` bool, the real tokens; ``None`` when all are.
        run: ``[B, T]``, the run of each token.
        member: ``[B, T]`` bool, the tokens that belong to a segment.
        count: ``[B, T+1]``, how many tokens each run holds, those of earlier calls included.
        slot_run: ``[B, T+1]``, the run that would close at each slot.
        closes: ``[B, T+1]`` bool, whether it does.
        last_run: ``[B]``, the run that the call ends in.
        open_count: ``[B]``, how many tokens the segment left open holds; 0 if none is.
        open_segment: ``[B]``, its id, or -1.
        reads_call_start: every token reads the state as the call found it.
    """

    mask: Tensor | None
    run: Tensor
    member: Tensor
    count: Tensor
    slot_run: Tensor
    closes: Tensor
    last_run: Tensor
    open_count: Tensor
    open_segment: Tensor
    reads_call_start: bool

    @property
    def written(self) -> Tensor:
        """``[B]``, how many tokens of this call belong to segments."""
        return self.member.sum(1)


WritePlan = TokenPlan | ReadPlan | SegmentPlan


def plan_segments(
    segment_ids: Tensor,
    mask: Tensor | None,
    writable: Tensor | None,
    carried: OpenSegment,
    *,
    close: bool,
    reads_call_start: bool = False,
) -> SegmentPlan:
    """Works out the runs of one call and where they close.

    Args:
        segment_ids: ``[B, T]``; equal neighbours share a segment, -1 belongs to none.
        mask: ``[B, T]`` bool, the real tokens; padding neither joins nor ends a segment.
        writable: ``[B, T]`` bool; a token that may not write belongs to no segment.
        carried: what the call before left open.
        close: end the last segment with this call instead of leaving it open.
        reads_call_start: the published release's convention, in which a call closes all it opens.
    """
    batch, length = segment_ids.shape
    device = segment_ids.device
    ids = segment_ids if writable is None else segment_ids.masked_fill(~writable, NO_SEGMENT)
    before = carried.segment[:, None]
    if mask is None:
        real = torch.ones_like(ids, dtype=torch.bool)
    else:
        real = mask
        position = torch.arange(1, length + 1, device=device).expand_as(ids).masked_fill(~mask, 0)
        last_real = position.cummax(1).values
        ids = torch.cat([before, ids], 1).gather(1, last_real)
    change = ids != torch.cat([before, ids], 1)[:, :-1]
    run = change.cumsum(1)
    last_run = torch.cat([torch.zeros_like(before), run], 1)[:, -1]
    member = real & (ids != NO_SEGMENT)
    count = torch.zeros(batch, length + 1, dtype=torch.int64, device=device)
    count = count.scatter_add(1, run, member.long())
    count = count + torch.nn.functional.pad(carried.count[:, None], (0, length))

    slot_run = torch.cat([(run - 1).clamp(min=0), last_run[:, None]], 1)
    ends_call = torch.full_like(change[:, :1], close) if length else torch.full_like(before, close, dtype=torch.bool)
    closes = torch.cat([change, ends_call], 1) & (count.gather(1, slot_run) > 0)

    left_open = count.gather(1, last_run[:, None])[:, 0] * (not close)
    last_id = torch.cat([before, ids], 1)[:, -1]
    return SegmentPlan(
        mask=mask,
        run=run,
        member=member,
        count=count,
        slot_run=slot_run,
        closes=closes,
        last_run=last_run,
        open_count=left_open,
        open_segment=torch.where(left_open > 0, last_id, NO_SEGMENT),
        reads_call_start=reads_call_start,
    )
