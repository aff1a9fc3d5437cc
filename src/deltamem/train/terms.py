"""The terms of the training objective: each a number to keep low, made from one reading of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.observe import positions
from deltamem.state import MemoryState
from deltamem.train.episodes import EpisodeBatch, TextBatch
from deltamem.train.passes import Answers, answers, read, read_bare
from deltamem.train.views import View, full_texts


@dataclass(frozen=True)
class Reading:
    """A batch whose histories have been written and whose queries have been read.

    Attributes:
        state: the memory of each episode, one row each.
        told: the trained tokens inside the histories, by passage.
        asked: the answers of the queries.
        views: ``[Q]``, how each query was read (:class:`View`).
        texts: the queries as they were read.
        gates: the write gates of each layer as the queries were read, ``[Q, T, G]``; none unless asked for.
    """

    model: PreTrainedModel
    batch: EpisodeBatch
    state: MemoryState
    told: tuple[Answers, ...]
    asked: Answers
    views: Tensor
    texts: TextBatch
    gates: tuple[Tensor, ...] = ()


Term = Callable[[Reading], Tensor]


def cross_entropy(reading: Reading) -> Tensor:
    """The loss a trained token, by weight: of the queries, and of what is trained inside the histories."""
    total = weight = torch.zeros((), device=reading.batch.episode_of.device)
    for part in (*reading.told, reading.asked):
        total, weight = total + (part.losses() * part.weights).sum(), weight + part.weights.sum()
    return total / weight


@dataclass(frozen=True)
class WriteSparsity:
    """The mean over the layers of (mean β on the tokens of the read pass - ``target``)², as in the published runs.

    Attributes:
        target: what the mean write gate of a layer is drawn to.
    """

    target: float = 0.05

    def __call__(self, reading: Reading) -> Tensor:
        """The term's value for one reading, which must have gates."""
        real = reading.texts.mask[..., None]
        means = [gates[real.to(gates.device).expand_as(gates)].mean() for gates in reading.gates]
        return torch.stack([(mean.to(means[0].device) - self.target) ** 2 for mean in means]).mean()


@dataclass(frozen=True)
class Distillation:
    """KL divergence on the answers' tokens from the bare backbone that sees the history's text.

    Attributes:
        temperature: divides both sides' logits; the divergence is multiplied by its square, which keeps the size of
            its gradients.
    """

    temperature: float = 1.0

    def __call__(self, reading: Reading) -> Tensor:
        """The term's value for one reading."""
        teacher = read_bare(reading.model, full_texts(reading.batch, positions(reading.model)))
        return _divergence(teacher.logits, reading.asked, self.temperature)


@dataclass(frozen=True)
class Contrast:
    """How far the loss of a query under its own memory is from being lower by a margin than under a false one.

    The hinge max(0, margin + own - false), each the query's loss a token, averaged over the queries that are read from
    the memory alone. An empty memory that is only read is constant, and then the term weighs the queries by whether
    the memory has helped yet; under another row's memory the gradient also raises the false loss.

    Attributes:
        against: an ``empty`` memory, or that of the ``other`` episode that follows in the batch and has another
            history. A batch without one, as the last of an epoch may be, counts as 0.
        margin: in nats a token.
    """

    against: Literal["empty", "other"]
    margin: float = 1.0

    def __call__(self, reading: Reading) -> Tensor:
        """The term's value for one reading."""
        batch, queries = reading.batch, reading.batch.queries
        memories, false_ones = self._false(reading)
        hidden = read(reading.model, memories, queries, writing=batch.write_queries)
        own, false = (
            _loss_a_text(part, len(batch.episode_of))
            for part in (reading.asked, answers(reading.model, hidden, queries))
        )
        alone = (reading.views == View.STATE) & false_ones
        return (F.relu(self.margin + own - false) * alone).sum() / alone.sum().clamp(min=1)

    def _false(self, reading: Reading) -> tuple[MemoryState, bool]:
        """A memory for each query, and whether it is a false one.

        Where there is none the queries are read all the same: sharded models need all processes in every pass.
        """
        owners = reading.batch.episode_of
        if self.against == "empty":
            return attached(reading.model).new_state(len(owners)), True
        others = reading.batch.strangers()
        return reading.state.select(owners if others is None else others[owners]), others is not None


def preservation(reading: Reading) -> Tensor:
    """KL divergence from the bare backbone on prompts that need no memory, each read beside some episode's memory.

    Raises:
        ValueError: the batch has no such prompts.
    """
    plain = reading.batch.plain
    if plain is None:
        raise ValueError("The preservation term needs prompts that need no memory: give them as EpisodeBatch.plain.")
    rows = torch.arange(plain.ids.shape[0], device=plain.ids.device) % reading.state.batch
    hidden = read(reading.model, reading.state.select(rows), plain, writing=reading.batch.write_queries)
    return _divergence(read_bare(reading.model, plain).logits, answers(reading.model, hidden, plain))


def _divergence(teacher: Tensor, student: Answers, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) a token, by the tokens' weights."""
    wanted, given = (F.log_softmax(logits.float() / temperature, -1) for logits in (teacher, student.logits))
    divergence = F.kl_div(given, wanted, log_target=True, reduction="none").sum(-1)
    return temperature**2 * (divergence * student.weights).sum() / student.weights.sum()


def _loss_a_text(part: Answers, texts: int) -> Tensor:
    """``[texts]``, the weighted mean loss of the tokens of each; 0 where it has none."""
    empty = part.weights.new_zeros(texts)
    total = empty.index_add(0, part.rows, part.losses() * part.weights)
    return total / empty.index_add(0, part.rows, part.weights).clamp(min=torch.finfo(empty.dtype).tiny)
