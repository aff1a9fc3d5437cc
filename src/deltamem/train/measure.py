"""What is measured on held-out episodes: the answers' loss with and without memory, and what of the gain is memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.observe import positions
from deltamem.train.episodes import EpisodeBatch
from deltamem.train.long import Writing, write_history
from deltamem.train.passes import Answers, answers, forward, read_bare, reading_step
from deltamem.train.views import full_texts

# Below this gap between no text and text, in nats a token, a share of it says nothing.
_LEAST_GAP = 0.01


class Condition(StrEnum):
    """With what a query is answered.

    Attributes:
        NOTHING: the bare backbone and the query alone.
        MEMORY: the query alone, read from the memory of the batch's histories.
        FULL: the bare backbone with the history's text before the query.
    """

    NOTHING = "nothing"
    MEMORY = "memory"
    FULL = "full"


class Tally(NamedTuple):
    """Sums over queries, which add up over batches and processes.

    Attributes:
        loss: of the answers' tokens, by weight.
        weight: of those tokens.
        right: queries whose trained tokens are all predicted right.
        queries: how many there are.
        gates: ``[L]``, of the mean write gate β of each layer as a batch was read, times its queries.
        norms: ``[L]``, of the memories' Frobenius norms, the mean over a layer's states.
        memories: how many of those.
    """

    loss: Tensor
    weight: Tensor
    right: Tensor
    queries: Tensor
    gates: Tensor
    norms: Tensor
    memories: Tensor


@dataclass(frozen=True)
class Measured:
    """The answers' mean losses in nats a token and what follows from them.

    Attributes:
        nothing: the bare backbone's, with the query alone.
        own: from the memory of the query's own history.
        other: from the memory of another history; ``None`` if it was not asked for.
        full: the bare backbone's, with the text.
        static: the static control's, from another history's memory, as it was trained; ``None`` without a control.
        recall: the share of the queries answered right to the last token, from their own memory.
        gates: the mean write gate β of each adapted layer as queries are read.
        norms: the mean Frobenius norm of each layer's states.
    """

    nothing: float
    own: float
    other: float | None
    full: float
    static: float | None
    recall: float
    gates: tuple[float, ...]
    norms: tuple[float, ...]

    def share(self, loss: float) -> float | None:
        """(nothing - loss) / (nothing - full), of the gap between no text and text; ``None`` if there is hardly one."""
        gap = self.nothing - self.full
        return (self.nothing - loss) / gap if gap >= _LEAST_GAP else None

    @property
    def recovered_share(self) -> float | None:
        """(nothing - own) / (nothing - full). Not all of it is memory."""
        return self.share(self.own)

    @property
    def memory_share(self) -> float | None:
        """(static - own) / (nothing - full): what a memory of the right history adds over any adapter at all."""
        own, static = self.share(self.own), None if self.static is None else self.share(self.static)
        return None if own is None or static is None else own - static

    def metrics(self) -> dict[str, float]:
        """All of it by name, one number each; without what is not known."""
        values = {
            "nothing_loss": self.nothing,
            "own_loss": self.own,
            "other_loss": self.other,
            "full_loss": self.full,
            "static_loss": self.static,
            "recovered_share": self.recovered_share,
            "memory_share": self.memory_share,
            "recall": self.recall,
            "gate": sum(self.gates) / len(self.gates),
            "state_norm": sum(self.norms) / len(self.norms),
        }
        values |= {f"gate_layer_{place}": gate for place, gate in enumerate(self.gates)}
        values |= {f"state_norm_layer_{place}": norm for place, norm in enumerate(self.norms)}
        return {name: value for name, value in values.items() if value is not None}


@torch.no_grad()
def tally(model: PreTrainedModel, batch: EpisodeBatch, condition: Condition, writing: Writing | None = None) -> Tally:
    """Answers the queries of a batch in one condition.

    Args:
        model: an attached model; its active adapter reads and writes.
        batch: the episodes.
        condition: with what.
        writing: how histories are written.

    Raises:
        ValueError: history and answer together do not fit the backbone's positions, in the condition ``full``.
    """
    if condition is not Condition.MEMORY:
        texts = batch.queries
        if condition is Condition.FULL:
            texts = full_texts(batch, positions(model))
        return _sums(read_bare(model, texts), batch)
    empty = attached(model).new_state(batch.passages[0].ids.shape[0])
    state, _ = write_history(model, empty, batch.passages, writing or Writing())
    gates: dict[int, Tensor] = {}
    step = reading_step(state.select(batch.episode_of), batch.queries, batch.write_queries, gates)
    hidden = forward(model, batch.queries, step)
    real = batch.queries.mask[..., None]
    means = [gates[layer][real.expand_as(gates[layer])].mean().to(real.device) for layer in sorted(gates)]
    queries = len(batch.episode_of)
    return _sums(answers(model, hidden, batch.queries), batch)._replace(
        gates=torch.stack(means) * queries,
        norms=state.norms().mean(2).sum(1).to(real.device),
        memories=torch.tensor(float(state.batch), device=real.device),
    )


def add(tallies: Iterable[Tally]) -> Tally:
    """The sums of several tallies of one condition, on the CPU in float64."""
    columns = zip(*tallies, strict=True)
    return Tally(*(torch.stack([value.cpu().double() for value in column]).sum(0) for column in columns))


def mean_loss(sums: Tally) -> float:
    """The mean loss in nats a token."""
    return (sums.loss / sums.weight).item()


def summarise(nothing: Tally, own: Tally, other: Tally | None, full: Tally, static: float | None) -> Measured:
    """What the sums of the conditions and the static control's loss come to."""
    return Measured(
        nothing=mean_loss(nothing),
        own=mean_loss(own),
        other=None if other is None else mean_loss(other),
        full=mean_loss(full),
        static=static,
        recall=(own.right / own.queries).item(),
        gates=tuple((own.gates / own.queries).tolist()),
        norms=tuple((own.norms / own.memories).tolist()),
    )


def _sums(part: Answers, batch: EpisodeBatch) -> Tally:
    queries = len(batch.episode_of)
    empty = part.weights.new_zeros(1)
    return Tally(
        loss=(part.losses() * part.weights).sum(),
        weight=part.weights.sum(),
        right=part.weights.new_tensor(float(queries - len(part.wrong()))),
        queries=part.weights.new_tensor(float(queries)),
        gates=empty,
        norms=empty,
        memories=empty[0],
    )
