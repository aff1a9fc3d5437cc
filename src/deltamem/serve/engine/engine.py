"""The server's own engine: one thread owns the model, and what waits is batched.

A turn of the loop feeds one chunk of every prompt that is being read, decodes one token of every row that is
generating, and writes one chunk of what is to be remembered. So rows join and leave at token boundaries, and no
long text keeps the others waiting longer than a chunk takes.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.serve.engine.batch import RowBatch, WriteBatch, check_model
from deltamem.serve.engine.interface import AnyEngine
from deltamem.serve.engine.jobs import Done, EngineError, Event, Failed, Job, Load, Piece, Row, Writing, Written
from deltamem.serve.engine.sampling import choose
from deltamem.serve.settings import EngineLimits

_log = logging.getLogger(__name__)
# Writes gather for this many decoded tokens, so that turns which end close together are written together.
_GATHER = 3


class Engine(AnyEngine):
    """An engine over a model of transformers.

    Nothing else may change the model while the engine runs. Whoever calls it meanwhile takes some of the machine.

    Args:
        model: a model with an active adapter.
        tokenizer: its tokenizer.
        limits: how much it takes on.
        told: ``watch`` and ``delivered`` of :class:`AnyEngine`.

    Raises:
        ValueError: the backbone cannot be batched by rows.
    """

    computes = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, limits: EngineLimits | None = None, **told: Callable[..., None]
    ) -> None:
        check_model(model)
        super().__init__(model, tokenizer, limits, **told)
        self._prefilling = RowBatch(model, self.context)
        self._decoding = RowBatch(model, self.context)
        self._writing = WriteBatch(model, self.limits.prefill_tokens)
        self._gathered = 0
        self._thread.start()

    def load(self) -> Load:
        """Counts jobs by the batch they are in."""
        return Load(len(self._waiting), len(self._prefilling), len(self._decoding), len(self._writing))

    def _line(self) -> tuple[int, int]:
        return len(self._waiting), self._free()

    def _free(self) -> int:
        return max(0, self.limits.max_batch - len(self._prefilling) - len(self._decoding))

    def _busy(self) -> bool:
        return bool(self._prefilling.rows or self._decoding.rows or self._writing.jobs)

    @torch.inference_mode()
    def _step(self) -> int:
        """One chunk, one token, one chunk written; gives the number of rows that decoded."""
        self._admit()
        self._drop()
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
            self._fail(error, part)

    def _feed(self, batch: RowBatch, budget: int) -> tuple[list[Row], Tensor | None]:
        try:
            return batch.feed(budget)
        except Exception as error:
            self._fail(error, batch.rows)
            return [], None

    def _admit(self) -> None:
        """Lets waiting jobs in, first come first served, as far as there is room."""
        with self._changed:
            later: deque[Job] = deque()
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

    def _all_jobs(self) -> list[Job]:
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
            if choice.token in self._ends and not row.sampling.ignore_end:
                self._end(row, Done(row.text.finish(), "stop", row.prompt, row.made))
                continue
            piece = row.text.push(choice.token)
            row.ticket.deliver(Piece(piece, choice, row.text.length))
            if row.text.stopped:
                self._end(row, Done("", "stop", row.prompt, row.made))
            elif row.constraint is not None and row.constraint.finished:
                self._end(row, Done(row.text.finish(), "stop", row.prompt, row.made))
            elif row.made >= row.sampling.max_tokens or len(row.tokens) >= self.context:
                rest = row.text.finish()
                self._end(row, Done(rest, "stop" if row.text.stopped else "length", row.prompt, row.made))

    def _end(self, job: Job, event: Event) -> None:
        """Takes a job out and delivers its last event."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
            elif isinstance(job, Writing):
                self._writing.jobs.remove(job)
            else:
                (self._decoding if job in self._decoding.rows else self._prefilling).remove(job)
        self._deliver_last(job, event)

    def _fail(self, error: Exception, jobs: Sequence[Job] | None = None) -> None:
        """Ends jobs, by default all, after an error of the model's; what their batches held is given up with them."""
        jobs = self._all_jobs() if jobs is None else jobs
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
