"""The training objective: write the histories, read the queries from the memory alone, predict the answers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.observe import positions
from deltamem.state import MemoryState
from deltamem.train.episodes import EpisodeBatch, TextBatch
from deltamem.train.long import write_history
from deltamem.train.options import ObjectiveOptions
from deltamem.train.passes import answers, read
from deltamem.train.terms import TERMS, Reading
from deltamem.train.views import View, full_texts, mixed_texts, sample_views


class ObjectiveResult(NamedTuple):
    """What one batch of episodes costs.

    Attributes:
        loss: the scalar to minimise, the sum of the parts by their weights.
        parts: the value of each term in use, before its weight, without gradient.
        recall: the share of queries whose trained tokens are all predicted right, in the view they were read in.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    recall: float


class EpisodeObjective(nn.Module):
    """The objective over a batch of episodes, differentiable through the reads into the writes.

    A module that holds the model, so that what wraps modules for several processes (DDP, FSDP2) can wrap the whole of
    a step: one call of it is one forward pass to them.

    Args:
        model: an attached model; its active adapter is what the loss trains.
        options: the terms and their weights.
    """

    def __init__(self, model: PreTrainedModel, options: ObjectiveOptions | None = None) -> None:
        super().__init__()
        self.model = model
        self.options = options or ObjectiveOptions()

    def forward(self, batch: EpisodeBatch, step: int = 0) -> ObjectiveResult:
        """What a batch costs.

        Histories are written passage by passage. Then one pass reads all queries, each from its episode's memory; the
        history's text is not in it, but for the views that show it. Trained tokens inside a history (questions
        answered while the text is still there) count in the cross-entropy with their weights.

        Args:
            batch: the episodes.
            step: any number that changes as training goes on, so that an episode that comes again can have another
                view.

        Raises:
            ValueError: a term needs something that the batch lacks; the message says what.
        """
        reading = self._read(batch, step)
        weights = {name: weight for name in TERMS if (weight := getattr(self.options, name))}
        values = {name: TERMS[name](reading) for name in weights}
        loss = torch.stack([weight * values[name] for name, weight in weights.items()]).sum()
        recall = 1 - len(reading.asked.wrong()) / len(batch.episode_of)
        return ObjectiveResult(loss, {name: value.detach() for name, value in values.items()}, recall)

    def _read(self, batch: EpisodeBatch, step: int) -> Reading:
        model, options = self.model, self.options
        empty = attached(model).new_state(batch.passages[0].ids.shape[0])
        state, told = write_history(model, empty, batch.passages, options.writing)
        seed = f"{options.seed}/{step}"
        episodes = sample_views(batch, state_and_text=options.state_and_text, no_memory=options.no_memory, seed=seed)
        views = episodes[batch.episode_of]
        texts, memories, writing = self._seen(batch, state, views)
        recorded: dict[int, Tensor] | None = {} if options.sparsity else None
        hidden = read(model, memories, texts, writing=writing, gates=recorded)
        return Reading(
            model=model,
            batch=batch,
            state=state,
            told=tuple(
                answers(model, inside, passage)
                for passage, inside in zip(batch.passages, told, strict=True)
                if inside is not None
            ),
            asked=answers(model, hidden, texts),
            views=views,
            texts=texts,
            options=options,
            gates=tuple(recorded[layer] for layer in sorted(recorded)) if recorded else (),
        )

    def _seen(
        self, batch: EpisodeBatch, state: MemoryState, views: Tensor
    ) -> tuple[TextBatch, MemoryState, bool | Tensor]:
        """The texts, memories and permission to write with which the queries are read."""
        memories = state.select(batch.episode_of)
        if not views.any():
            return batch.queries, memories, batch.write_queries
        texts = mixed_texts(batch.queries, full_texts(batch, positions(self.model)), views != View.STATE)
        # Row Q + q is the empty memory that query q may begin with.
        choices = MemoryState.stack([memories, attached(self.model).new_state(len(views))])
        rows = torch.arange(len(views), device=views.device)
        memories = choices.select(rows + len(views) * (views == View.NO_MEMORY))
        writes = views == View.NO_MEMORY
        if batch.write_queries:
            writes = writes | (views == View.STATE)
        return texts, memories, writes[:, None]


def episode_loss(model: PreTrainedModel, batch: EpisodeBatch) -> ObjectiveResult:
    """The plain :class:`EpisodeObjective`: the cross-entropy of the answers once the text is gone."""
    return EpisodeObjective(model).forward(batch)
