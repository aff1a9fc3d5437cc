"""The server's own engine: one thread owns the model, and what waits is batched.

A turn of the loop feeds one chunk of every prompt that is being read, decodes one token of every row that is
generating, and writes one chunk of what is to be remembered. So rows join and leave at token boundaries, and no
long text keeps the others waiting longer than a chunk takes.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.observe import positions
from deltamem.serve.engine.batch import RowBatch, WriteBatch, check_model
from deltamem.serve.engine.constraint import Constraint
from deltamem.serve.engine.interface import check_prompt, end_tokens
from deltamem.serve.engine.jobs import (
    ClosedError,
    Deliver,
    Done,
    EngineError,
    Event,
    Failed,
    Load,
    Piece,
    QueueFullError,
    Row,
    Ticket,
    Writing,
    Written,
)
from deltamem.serve.engine.sampling import Sampling, choose
from deltamem.serve.engine.text import TextStream
from deltamem.serve.settings import EngineLimits
from deltamem.state import MemoryState

_log = logging.getLogger(__name__)
# Writes gather for this many decoded tokens, so that turns which end close together are written together.
_GATHER = 3


class Engine:
    """:class:`deltamem.serve.engine.interface.AnyEngine` over a model of transformers.

    Nothing else may change the model while the engine runs. Whoever calls it meanwhile takes some of the machine.
    The arguments are those of :class:`deltamem.serve.engine.interface.MakeEngine`.

    Raises:
        ValueError: the backbone cannot be batched by rows.
    """

    computes = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        limits: EngineLimits | None = None,
        *,
        watch: Callable[[int, float], None] | None = None,
        delivered: Callable[[], None] | None = None,
    ) -> None:
        self._attachment = check_model(model)
        self.model = model
        self.tokenizer = tokenizer
        self.limits = limits or EngineLimits()
        most = positions(model) or 2**31
        self.context = min(self.limits.context or most, most)
        self._ends = end_tokens(model, tokenizer)
        self._watch = watch
        self._delivered = delivered or (lambda: None)
        self._waiting: deque[Row | Writing] = deque()
        self._prefilling = RowBatch(model, self.context)
        self._decoding = RowBatch(model, self.context)
        self._writing = WriteBatch(model, self.limits.prefill_tokens)
        self._gathered = 0
        self._seconds_per_job = 0.5
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="deltamem-engine", daemon=True)
        self._thread.start()

    def new_state(self) -> MemoryState:
        """Zeros, where the adapter computes and in its precision."""
        return self._attachment.new_state(1)

    def load(self) -> Load:
        """Counts jobs by the batch they are in."""
        return Load(len(self._waiting), len(self._prefilling), len(self._decoding), len(self._writing))

    @property
    def alive(self) -> bool:
        """False once it closes, or if its thread died of something that no job caused."""
        return self._thread.is_alive() and not self._closing

    def generate(
        self,
        prompt: list[int],
        sampling: Sampling,
        deliver: Deliver,
        *,
        state: MemoryState | None = None,
        deadline: float | None = None,
        continues: bool = False,
        constraint: Constraint | None = None,
    ) -> Ticket:
        """Queues a row, which is let in when another one ends."""
        check_prompt(prompt, self.context)
        ticket = Ticket(deliver, deadline)
        text = TextStream(self.tokenizer, sampling.stop, prompt if continues else ())
        state = state if state is not None else self.new_state()
        row = Row(ticket, state, list(prompt), len(prompt), sampling, sampling.draws(), text, constraint=constraint)
        self._submit(row)
        return ticket

    def write(
        self,
        ids: Tensor,
        segments: Tensor,
        write: Tensor,
        deliver: Deliver,
        *,
        state: MemoryState | None = None,
        deadline: float | None = None,
        admitted: bool = False,
    ) -> Ticket:
        """Queues a writing: before all else if it ends a turn, and with room for it at any time."""
        ticket = Ticket(deliver, deadline)
        state = state if state is not None else self.new_state()
        self._submit(Writing(ticket, state, ids, segments, write), admitted=admitted)
        return ticket

    def stop(self) -> None:
        """Has the thread drop every job in its next pass."""
        self._take_no_more()
        for job in self._all_jobs():
            job.ticket.cancel(ClosedError())

    def close(self, timeout: float | None = None) -> None:
        """Has the thread run until nothing is left, or until what is left after ``timeout`` seconds is cancelled."""
        self._take_no_more()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.stop()
            self._thread.join()

    def _take_no_more(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _submit(self, job: Row | Writing, *, admitted: bool = False) -> None:
        with self._changed:
            if not self._thread.is_alive() or (self._closing and not admitted):
                raise ClosedError
            ahead = len(self._waiting)
            if not admitted and ahead >= self.limits.queue + self._free():
                wait = ahead * self._seconds_per_job / self.limits.max_batch
                raise QueueFullError(ahead, max(1, min(60, round(wait))))
            if admitted:
                self._waiting.appendleft(job)
            else:
                self._waiting.append(job)
            self._changed.notify()

    def _free(self) -> int:
        return max(0, self.limits.max_batch - len(self._prefilling) - len(self._decoding))

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._busy()):
                    if self._closing:
                        return
                    self._changed.wait()
            started = time.monotonic()
            try:
                self._admit()
                self._drop()
                decoded = self._turn()
            except Exception as error:
                self._fail(self._all_jobs(), error)
            else:
                if self._watch is not None:
                    self._watch(decoded, time.monotonic() - started)
            self._delivered()

    def _busy(self) -> bool:
        return bool(self._prefilling.rows or self._decoding.rows or self._writing.jobs)

    def _turn(self) -> int:
        """One chunk, one token, one chunk written; gives the number of rows that decoded."""
        if self._prefilling.rows:
            ready, logits = self._feed(self._prefilling, self.limits.prefill_tokens)
            for row in ready:
                self._decoding.add(row, self._prefilling)
                self._prefilling.remove(row)
            self._take(ready, logits)
        decoded = len(self._decoding)
        if decoded:
            self._take(*self._feed(self._decoding, decoded))
        self._gathered += 1
        if self._writing.jobs and (self._gathered >= _GATHER or not (self._prefilling.rows or self._decoding.rows)):
            self._delivered()
            self._gathered = 0
            self._write()
        return decoded

    def _write(self) -> None:
        part = self._writing.next_part()
        try:
            for job in self._writing.write(part):
                self._end(job, Written(job.state))
        except Exception as error:
            self._fail(part, error)

    def _feed(self, batch: RowBatch, budget: int) -> tuple[list[Row], Tensor | None]:
        try:
            return batch.feed(budget)
        except Exception as error:
            self._fail(batch.rows, error)
            return [], None

    def _admit(self) -> None:
        """Lets waiting jobs in, first come first served, as far as there is room."""
        with self._changed:
            later: deque[Row | Writing] = deque()
            while self._waiting:
                job = self._waiting.popleft()
                if isinstance(job, Writing):
                    self._writing.jobs.append(job)
                elif self._free():
                    self._prefilling.add(job)
                else:
                    later.append(job)
            self._waiting = later

    def _drop(self) -> None:
        """Ends the jobs that nobody waits for any more, wherever they are."""
        for job in self._all_jobs():
            problem = job.ticket.problem()
            if problem is not None:
                self._end(job, Failed(problem))

    def _all_jobs(self) -> list[Row | Writing]:
        with self._changed:
            return [*self._waiting, *self._prefilling.rows, *self._decoding.rows, *self._writing.jobs]

    def _take(self, rows: list[Row], logits: Tensor | None) -> None:
        """Chooses the next token of each row and ends the rows that it completes."""
        if logits is None:
            return
        chosen = choose(
            logits,
            [(row.sampling, row.draws) for row in rows],
            [row.tokens for row in rows],
            [row.prompt for row in rows],
            [row.constraint for row in rows],
        )
        for row, choice in zip(rows, chosen, strict=True):
            row.tokens.append(choice.token)
            if row.constraint is not None:
                row.constraint.take(choice.token)
            made = len(row.tokens) - row.prompt
            if choice.token in self._ends and not row.sampling.ignore_end:
                self._end(row, Done(row.text.finish(), "stop", row.prompt, made))
                continue
            piece = row.text.push(choice.token)
            row.ticket.deliver(Piece(piece, choice, row.text.length))
            if row.text.stopped:
                self._end(row, Done("", "stop", row.prompt, made))
            elif row.constraint is not None and row.constraint.finished:
                self._end(row, Done(row.text.finish(), "stop", row.prompt, made))
            elif made >= row.sampling.max_tokens or len(row.tokens) >= self.context:
                rest = row.text.finish()
                self._end(row, Done(rest, "stop" if row.text.stopped else "length", row.prompt, made))

    def _end(self, job: Row | Writing, event: Event) -> None:
        """Takes a job out and delivers its last event."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
            elif isinstance(job, Writing):
                self._writing.jobs.remove(job)
            else:
                (self._decoding if job in self._decoding.rows else self._prefilling).remove(job)
        if isinstance(event, Done):
            spent = time.monotonic() - job.ticket.submitted
            self._seconds_per_job = 0.9 * self._seconds_per_job + 0.1 * spent
        job.ticket.deliver(event)

    def _fail(self, jobs: Sequence[Row | Writing], error: Exception) -> None:
        """Ends jobs after an error of the model's; what their batches held is given up with them."""
        _log.error("a batch of %d failed", len(jobs), exc_info=error)
        failure = EngineError(f"The model failed ({type(error).__name__}); nothing was written.")
        gone = list(jobs)
        with self._changed:
            self._waiting = deque(job for job in self._waiting if job not in gone)
            self._writing.jobs = [job for job in self._writing.jobs if job not in gone]
            for batch in (self._prefilling, self._decoding):
                if any(row in gone for row in batch.rows):
                    batch.clear()
        for job in gone:
            job.ticket.deliver(Failed(failure))
