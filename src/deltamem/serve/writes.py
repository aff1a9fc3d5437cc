"""What is being written to memory: jobs whose next chunks go through the backbone together."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.observe import CHUNK, chunk_length, observe
from deltamem.serve.jobs import Writing
from deltamem.state import MemoryState


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
        self._chunk = chunk_length(self._attachment.base.config, CHUNK)
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
