"""The training objective: write the histories, read the queries from the memory alone, predict the answers."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from deltamem.attach import attached
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.episodes import EpisodeBatch, TextBatch

# On a CPU the fused attention is slower than the plain one below about this many tokens.
_SHORT = 256
_SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


@dataclass(frozen=True)
class EpisodeLoss:
    """What one batch of episodes costs.

    Attributes:
        loss: the scalar to minimise: cross-entropy a token, by weight.
        recall: the share of queries whose trained tokens are all predicted right.
    """

    loss: Tensor
    recall: float


def write(model: PreTrainedModel, state: MemoryState, text: TextBatch) -> tuple[MemoryState, Tensor]:
    """Write one passage a row: the new memory, and the hidden states ``[B, T, D]`` of the passage.

    The last segment of the passage is closed, so a segment adapter writes all of it.
    """
    return _forward(model, Step(state, mask=text.mask, segment_ids=text.segments, close=True), text)


def read(model: PreTrainedModel, state: MemoryState, text: TextBatch, *, writing: bool = False) -> Tensor:
    """Hidden states ``[B, T, D]`` of texts that read the memory, and write too if ``writing``."""
    step = Step(state, write=writing, mask=text.mask if writing else None, segment_ids=text.segments)
    return _forward(model, step, text)[1]


def trained_logits(model: PreTrainedModel, hidden: Tensor, text: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
    """For the M tokens of non-zero weight: logits ``[M, V]``, targets ``[M]`` and their rows in the batch ``[M]``.

    Raises:
        ValueError: the model does more to its logits than one linear map.
    """
    scaled = [name for name in _SCALED_LOGITS if getattr(model.config, name, None) not in (None, 1.0)]
    if scaled:
        raise ValueError(
            f"{type(model).__name__} rescales its logits ({', '.join(scaled)}), which this objective does not do; "
            "train on a backbone with a plain output layer."
        )
    chosen = text.weights[:, 1:] > 0
    head = model.get_output_embeddings()
    return head(hidden[:, :-1][chosen]), text.ids[:, 1:][chosen], chosen.nonzero()[:, 0]


def episode_loss(model: PreTrainedModel, batch: EpisodeBatch) -> EpisodeLoss:
    """The loss of a batch of episodes, differentiable through the reads into the writes.

    Histories are written in one pass a passage. Then one pass reads all queries, each from its episode's
    memory; the history's text is not in it. Trained tokens inside a history (questions answered while the
    text is still there) count with their weights beside the queries.
    """
    state = attached(model).new_state(batch.passages[0].ids.shape[0])
    total = weight = torch.zeros(())
    for passage in batch.passages:
        state, hidden = write(model, state, passage)
        if passage.weights.any():
            losses, weights, _ = _losses(model, hidden, passage)
            total, weight = total + (losses * weights).sum(), weight + weights.sum()
    hidden = read(model, state.select(batch.episode_of), batch.queries, writing=batch.write_queries)
    losses, weights, wrong = _losses(model, hidden, batch.queries)
    total, weight = total + (losses * weights).sum(), weight + weights.sum()
    return EpisodeLoss(total / weight, 1 - len(wrong) / len(batch.episode_of))


def _losses(model: PreTrainedModel, hidden: Tensor, text: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
    """For each trained token its loss and weight, and the rows in which a prediction is wrong."""
    logits, targets, rows = trained_logits(model, hidden, text)
    weights = text.weights[:, 1:]
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return losses, weights[weights > 0], rows[logits.argmax(-1) != targets].unique()


def _forward(model: PreTrainedModel, step: Step, text: TextBatch) -> tuple[MemoryState, Tensor]:
    short = text.ids.device.type == "cpu" and text.ids.shape[1] <= _SHORT
    # Padding is on the right: the causal mask is mask enough, and without another the fast attention is used.
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        hidden = attached(model).base(text.ids, memory=step, use_cache=False).last_hidden_state
    return step.new_state, hidden
