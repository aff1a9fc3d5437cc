"""What is measured on held-out episodes: the answers' loss with and without memory, and what of the gain is memory."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.observe import positions
from deltamem.rates import wilson
from deltamem.train.episodes import EpisodeBatch
from deltamem.train.long import write_history
from deltamem.train.options import Writing
from deltamem.train.passes import Answers, answers, read, read_bare
from deltamem.train.views import full_texts

# Below this gap between no text and text, in nats a token, a share of it says nothing.
_LEAST_GAP = 0.01
# Of fewer, not even all in one direction are rare by chance.
_LEAST_EPISODES = 6
_DRAWS = 2000


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
    """How the queries of batches were answered; tallies of one condition add up over batches and processes.

    Attributes:
        queries: ``[Q, 4]``, for each query the loss of its trained tokens, by weight, their weight, whether all of them
            are predicted right, and the number of its episode.
        gates: ``[L]``, of the mean write gate β of each layer as a batch was read, times its queries.
        norms: ``[L]``, of the memories' Frobenius norms, the mean over a layer's states.
        memories: how many of those.
    """

    queries: Tensor
    gates: Tensor
    norms: Tensor
    memories: Tensor

    @property
    def recall(self) -> float:
        """The share of the queries answered right to the last token."""
        return self.queries[:, 2].mean().item()


@dataclass(frozen=True)
class Measured:
    """The answers' mean losses in nats a token and what follows from them.

    Attributes:
        nothing: the bare backbone's, with the query alone.
        own: from the memory of the query's own history.
        other: from the memory of another history; ``None`` if it was not asked for.
        full: the bare backbone's, with the text.
        static: the static control's, from another history's memory, as it was trained; ``None`` without a control.
        right: how many queries are answered right to the last token, from their own memory.
        queries: how many queries there are.
        episodes: how many episodes they are of.
        gates: the mean write gate β of each adapted layer as queries are read.
        norms: the mean Frobenius norm of each layer's states.
        memory_interval: the 95 % interval of :attr:`memory_share` over episodes; ``None`` if they are too few for one.
    """

    nothing: float
    own: float
    other: float | None
    full: float
    static: float | None
    right: int
    queries: int
    episodes: int
    gates: tuple[float, ...]
    norms: tuple[float, ...]
    memory_interval: tuple[float, float] | None = None

    @property
    def recall(self) -> float:
        """The share of the queries answered right to the last token, from their own memory."""
        return self.right / self.queries

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
            "queries": float(self.queries),
            "episodes": float(self.episodes),
            "gate": sum(self.gates) / len(self.gates),
            "state_norm": sum(self.norms) / len(self.norms),
        }
        low, high = wilson(self.right, self.queries)
        values |= {"recall_low": low, "recall_high": high}
        if self.memory_interval is not None:
            values |= dict(zip(("memory_share_low", "memory_share_high"), self.memory_interval, strict=True))
        values |= {f"gate_layer_{place}": gate for place, gate in enumerate(self.gates)}
        values |= {f"state_norm_layer_{place}": norm for place, norm in enumerate(self.norms)}
        return {name: value for name, value in values.items() if value is not None}


@torch.no_grad()
def tally(model: PreTrainedModel, batch: EpisodeBatch, condition: Condition, writing: Writing | None = None) -> Tally:
    """Answers the queries of a batch in one condition.

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
    memories = state.select(batch.episode_of)
    hidden = read(model, memories, batch.queries, writing=batch.write_queries, gates=gates)
    real = batch.queries.mask[..., None]
    means = [gates[layer][real.expand_as(gates[layer])].mean().to(real.device) for layer in sorted(gates)]
    queries = len(batch.episode_of)
    return _sums(answers(model, hidden, batch.queries), batch)._replace(
        gates=torch.stack(means) * queries,
        norms=state.norms().mean(2).sum(1).to(real.device),
        memories=torch.tensor(float(state.batch), device=real.device),
    )


def add(tallies: Iterable[Tally]) -> Tally:
    """Several tallies of one condition as one, on the CPU in float64."""
    queries, *sums = ([value.cpu().double() for value in column] for column in zip(*tallies, strict=True))
    first = queries[0].new_zeros(4)
    numbered = []
    for part in queries:  # the episodes go on counting
        numbered.append(part + first)
        first[3] += part[:, 3].max() + 1
    return Tally(torch.cat(numbered), *(torch.stack(column).sum(0) for column in sums))


def mean_loss(sums: Tally) -> float:
    """The mean loss in nats a token."""
    loss, weight = sums.queries[:, :2].sum(0).tolist()
    return float(loss / weight)


def summarise(
    nothing: Tally,
    own: Tally,
    other: Tally | None,
    full: Tally,
    static: float | None,
    static_losses: Sequence[float] | None = None,
) -> Measured:
    """What the tallies of the conditions come to.

    Args:
        nothing: without memory.
        own: with the own history's.
        other: with another's, if that was measured.
        full: with the text.
        static: the static control's mean loss.
        static_losses: the static control's loss of each query, in the same order.
    """
    episodes = own.queries[:, 3].unique(return_inverse=True)[1]
    interval = None
    if static_losses is not None and len(static_losses) == len(own.queries):
        control = torch.tensor(static_losses, dtype=torch.float64)
        gains = torch.stack([control - own.queries[:, 0], nothing.queries[:, 0] - full.queries[:, 0]], 1)
        interval = _share_interval(gains, episodes)
    return Measured(
        nothing=mean_loss(nothing),
        own=mean_loss(own),
        other=None if other is None else mean_loss(other),
        full=mean_loss(full),
        static=static,
        right=int(own.queries[:, 2].sum()),
        queries=len(own.queries),
        episodes=int(episodes.max()) + 1,
        memory_interval=interval,
        gates=tuple((own.gates / len(own.queries)).tolist()),
        norms=tuple((own.norms / own.memories).tolist()),
    )


def _share_interval(gains: Tensor, episodes: Tensor) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of two sums, by a bootstrap over episodes.

    Args:
        gains: ``[Q, 2]``, what each query adds to the two sums.
        episodes: ``[Q]``, the episode of each query; queries of one episode stand or fall together.

    Returns:
        its ends; ``None`` for fewer than six episodes, or where the second sum is hardly above zero.
    """
    count = int(episodes.max()) + 1
    if count < _LEAST_EPISODES:
        return None
    sums = gains.new_zeros(count, 2).index_add(0, episodes, gains)
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randint(count, (_DRAWS // 20, count), generator=generator) for _ in range(20))
    drawn = torch.cat([sums[places].sum(1) for places in draws])
    if bool((drawn[:, 1] <= 0).any()):
        return None
    shares = drawn[:, 0] / drawn[:, 1]
    centre = (sums[:, 0].sum() / sums[:, 1].sum()).item()
    # Of few episodes the plain bootstrap's intervals are too narrow by the spread's own bias.
    wider = math.sqrt(count / (count - 1))
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=shares.dtype)).tolist()
    return centre + (low - centre) * wider, centre + (high - centre) * wider


def _sums(part: Answers, batch: EpisodeBatch) -> Tally:
    empty = part.weights.new_zeros(1)
    queries = part.weights.new_zeros(len(batch.episode_of), 4)
    queries[:, 0].index_add_(0, part.rows, part.losses() * part.weights)
    queries[:, 1].index_add_(0, part.rows, part.weights)
    queries[:, 2] = 1
    queries[part.wrong(), 2] = 0
    queries[:, 3] = batch.episode_of
    return Tally(queries, gates=empty, norms=empty, memories=empty[0])
