"""The terms of the training objective: each a number to keep low, made from one reading of a batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.observe import positions
from deltamem.state import MemoryState
from deltamem.train.episodes import EpisodeBatch, TextBatch
from deltamem.train.options import ObjectiveOptions
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
        options: the margins, targets and temperatures of the terms.
        gates: the write gates of each layer as the queries were read, ``[Q, T, G]``; none unless asked for.
    """

    model: PreTrainedModel
    batch: EpisodeBatch
    state: MemoryState
    told: tuple[Answers, ...]
    asked: Answers
    views: Tensor
    texts: TextBatch
    options: ObjectiveOptions
    gates: tuple[Tensor, ...] = ()


def cross_entropy(reading: Reading) -> Tensor:
    """The loss a trained token, by weight: of the queries, and of what is trained inside the histories."""
    total = weight = torch.zeros((), device=reading.batch.episode_of.device)
    for part in (*reading.told, reading.asked):
        total, weight = total + (part.losses() * part.weights).sum(), weight + part.weights.sum()
    return total / weight


def sparsity(reading: Reading) -> Tensor:
    """The mean over the layers of (mean β on the tokens of the read pass - the target)², as in the published runs."""
    real = reading.texts.mask[..., None]
    means = [gates[real.to(gates.device).expand_as(gates)].mean() for gates in reading.gates]
    target = reading.options.sparsity_target
    return torch.stack([(mean.to(means[0].device) - target) ** 2 for mean in means]).mean()


def distillation(reading: Reading) -> Tensor:
    """KL divergence on the answers' tokens from the bare backbone that sees the history's text.

    The temperature divides both sides' logits; the divergence is multiplied by its square, which keeps the size of its
    gradients.
    """
    teacher = read_bare(reading.model, full_texts(reading.batch, positions(reading.model)))
    return _divergence(teacher.logits, reading.asked, reading.options.temperature)


def contrast_empty(reading: Reading) -> Tensor:
    """The hinge of :func:`_contrast` against an empty memory.

    One that is only read is constant, and then the term weighs the queries by whether the memory has helped yet.
    """
    return _contrast(reading, attached(reading.model).new_state(len(reading.batch.episode_of)))


def contrast_other(reading: Reading) -> Tensor:
    """The hinge of :func:`_contrast` against the memory of the next episode in the batch that has another history.

    The gradient also raises the false loss. A batch without such an episode, as the last of an epoch may be, counts as
    0; its queries are read all the same, as sharded models need all processes in every pass.
    """
    owners, others = reading.batch.episode_of, reading.batch.strangers()
    memories = reading.state.select(owners if others is None else others[owners])
    return _contrast(reading, memories, counts=others is not None)


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


TERMS: dict[str, Callable[[Reading], Tensor]] = {
    term.__name__: term
    for term in (cross_entropy, sparsity, distillation, contrast_empty, contrast_other, preservation)
}
"""By the name of their weight in :class:`ObjectiveOptions`."""


def _contrast(reading: Reading, memories: MemoryState, *, counts: bool = True) -> Tensor:
    """How far the loss of a query under its own memory is from being lower by the margin than under a false one.

    The hinge max(0, margin + own - false), each the query's loss a token, averaged over the queries that are read from
    the memory alone; none of them if not ``counts``.
    """
    batch, queries = reading.batch, reading.batch.queries
    hidden = read(reading.model, memories, queries, writing=batch.write_queries)
    own, false = (
        _loss_a_text(part, len(batch.episode_of)) for part in (reading.asked, answers(reading.model, hidden, queries))
    )
    alone = (reading.views == View.STATE) & counts
    return (F.relu(reading.options.margin + own - false) * alone).sum() / alone.sum().clamp(min=1)


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
