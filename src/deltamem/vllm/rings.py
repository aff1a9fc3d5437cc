"""The memories of the requests that run, beside the engine's pages.

A request has a slot while it runs. It is found in a batch by its first page, which is its own as long as pages are not
shared (no prefix caching). Its memory is a ring of K places (:mod:`deltamem.ops.packed`), for the engine may take back
the last tokens it fed: K is two more than it may speculate.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deltamem.ops.packed import WRITES, Batch

_KEPT = 4096


class MemoryLostError(RuntimeError):
    """A request's memory is not there, or not what the engine takes it for."""


class Taken(NamedTuple):
    """The memory of a request that has finished.

    Attributes:
        value: ``[L, N, R, R]``, or ``[L, N, R + 1, R]``, as the rings are.
        fed: how many tokens the engine fed.
        written: how many tokens have written to it, before this request and in it.
    """

    value: Tensor
    fed: int
    written: int


@dataclass
class Running:
    """A request that runs.

    Attributes:
        page: its first page.
        flags: which of its tokens write, see :meth:`MemoryRequest.flags`.
        written: how many tokens had written to its memory when it began.
        problem: why its memory cannot be trusted, if so.
    """

    page: int
    flags: Tensor
    written: int = 0
    problem: str | None = None


class Rings:
    """The rings of all layers, and which request has which.

    Args:
        layers: L, how many layers remember.
        states: N.
        rank: R.
        key_tokens: how many tokens a write address is made from; for two, below each matrix is what the last token adds
            to the next one's.
        requests: how many may run at once.
        speculated: how many tokens the engine may draft at a time.
    """

    def __init__(
        self, layers: int, states: int, rank: int, requests: int, speculated: int = 0, key_tokens: int = 1
    ) -> None:
        self.places = 2 + speculated
        # Slot 0 is of padding. A request that ends and one that begins in the same step have a slot each.
        self.slots = 2 * requests + 1
        self.shape = (layers, states, rank + key_tokens - 1, rank)
        self.values = torch.zeros(layers, self.slots, self.places, *self.shape[1:], dtype=torch.float32)
        self._tags = torch.full((self.slots, self.places), -1, dtype=torch.int64)
        self._by_page = torch.zeros(1, dtype=torch.int64)
        self._running: dict[int, Running] = {}
        self._tickets: dict[str, int] = {}
        self._kept: dict[str, Taken | str] = {}
        self._seen: Any = None
        self._batch: Batch | None = None
        self.lost: set[int] = set()

    def set_pages(self, pages: int) -> None:
        """Says how many pages the engine has."""
        self._by_page = torch.zeros(pages, dtype=torch.int64)

    def begin(
        self, slot: int, page: int, state: Tensor | None, flags: Tensor, ticket: str | None, written: int = 0
    ) -> None:
        """Has a request begin, or begin again after a preemption, with a memory as the rings hold it."""
        self._tags[slot] = -1
        self._tags[slot, 0] = 0
        self.values[:, slot, 0] = 0 if state is None else state
        self._by_page[page] = slot
        self._running[slot] = Running(page, flags, written)
        if ticket is not None:
            self._tickets[ticket] = slot

    def refuse(self, slot: int, page: int, problem: str, ticket: str | None) -> None:
        """Has a request begin whose memory could not be read; it fails with its second token, or at :meth:`take`."""
        self.begin(slot, page, None, torch.zeros(1, dtype=torch.uint8), ticket)
        self._running[slot].problem = problem

    def keep(self, ticket: str, tokens: int) -> None:
        """Keeps the memory of a request that has finished, after so many tokens, until :meth:`take`."""
        if ticket in self._tickets:
            self._kept[ticket] = self._read(self._tickets.pop(ticket), tokens)
        while len(self._kept) > _KEPT:
            self._kept.pop(next(iter(self._kept)))

    def drop(self, ticket: str) -> None:
        """Forgets a request that was aborted, and what was kept of it."""
        self._tickets.pop(ticket, None)
        self._kept.pop(ticket, None)

    def take(self, ticket: str, tokens: int) -> Taken:
        """The memory of a request that has finished, after so many tokens; only once.

        Raises:
            MemoryLostError: it is not there, or cannot be trusted.
        """
        if ticket in self._tickets:  # its answer was quicker than the step that keeps it
            self.keep(ticket, tokens)
        found = self._kept.pop(ticket, "There is no memory of this ticket; it was taken before, or never asked for.")
        if isinstance(found, str):
            raise MemoryLostError(found)
        if found.fed != tokens:
            raise MemoryLostError(f"The engine fed {found.fed} tokens, and {tokens} were wanted.")
        return found

    def batch(self, metadata: Any) -> Batch:
        """Whose the tokens of a step are, by the engine's attention metadata; worked out once for all layers."""
        if metadata is not self._seen or self._batch is None:
            self._seen, self._batch = metadata, self._work_out(metadata)
        return self._batch

    def _work_out(self, metadata: Any) -> Batch:
        requests = len(metadata.block_table)
        starts = metadata.query_start_loc[: requests + 1].to(torch.int64)
        fed = starts.diff()
        counts = metadata.seq_lens[:requests].to(torch.int64) - fed
        slots = self._by_page[metadata.block_table[:, 0].to(torch.int64)]
        held = self._tags[slots, counts % self.places] == counts
        writes = []
        for slot, count, length, good in zip(*(x.tolist() for x in (slots, counts, fed, held)), strict=True):
            running = self._running.get(slot)
            if running is not None and not good and length and running.problem is None:
                running.problem = f"The engine continues after {count} tokens, and the memory of them is not there."
            if running is None or running.problem is not None:
                writes.append(torch.zeros(length, dtype=torch.uint8))
                if running is not None:
                    self.lost.add(running.page)
                continue
            flags = running.flags[count : count + length]
            writes.append(flags)
            if len(flags) < length:
                writes.append(running.flags[-1:].expand(length - len(flags)))
        for back in range(min(self.places, int(fed.max()) if requests else 0)):
            some = fed > back
            after = (counts + fed - back)[some]
            self._tags[slots[some], after % self.places] = after
        return Batch(starts, slots, counts, torch.cat(writes) if writes else torch.zeros(0, dtype=torch.uint8))

    def _read(self, slot: int, tokens: int) -> Taken | str:
        running = self._running[slot]
        if running.problem is not None:
            return running.problem
        if int(self._tags[slot, tokens % self.places]) != tokens:
            return f"The memory after {tokens} tokens is not there any more."
        said, rest = running.flags[:-1][:tokens], max(0, tokens - len(running.flags) + 1)
        written = running.written + int((said == WRITES).sum()) + rest * int(running.flags[-1] == WRITES)
        return Taken(self.values[:, slot, tokens % self.places].clone(), tokens, written)
