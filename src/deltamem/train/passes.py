"""The forward passes of training: one writes a text, one reads a text, one is the bare backbone."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from deltamem.attach import attached, disabled
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.attention import in_blocks
from deltamem.train.episodes import TextBatch

_UNKNOWN_SCALES = ("output_multiplier", "lm_head_multiplier", "dim_model_base")


@dataclass(frozen=True)
class Answers:
    """The predictions of the M tokens of a batch of texts that have a loss weight.

    Attributes:
        logits: ``[M, V]``.
        targets: ``[M]``, the tokens themselves.
        weights: ``[M]``, their loss weights.
        rows: ``[M]``, the text each is in.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor
    rows: Tensor

    def losses(self) -> Tensor:
        """``[M]`` float32, the cross-entropy of each token."""
        return F.cross_entropy(self.logits.float(), self.targets, reduction="none")

    def wrong(self) -> Tensor:
        """The numbers of the texts in which a prediction is wrong."""
        rows: Tensor = self.rows[self.logits.argmax(-1) != self.targets].unique()
        return rows


def write(
    model: PreTrainedModel, state: MemoryState, text: TextBatch, *, close: bool = True
) -> tuple[MemoryState, Tensor]:
    """Writes one passage per row: the new memory, and the hidden states ``[B, T, D]`` of the passage.

    Unless ``close`` is false, the last segment of the passage is closed, so a segment adapter writes all of it.
    """
    step = Step(state, write=text.writes, mask=text.mask, segment_ids=text.segment_ids, close=close)
    hidden = forward(model, text, step)
    return step.new_state, hidden


def read(
    model: PreTrainedModel,
    state: MemoryState,
    text: TextBatch,
    *,
    writing: bool | Tensor = False,
    gates: dict[int, Tensor] | None = None,
) -> Tensor:
    """Hidden states ``[B, T, D]`` of texts that read the memory.

    Args:
        model: an attached model.
        state: a memory for each text.
        text: the texts.
        writing: whether they write too, or ``[B, 1]`` bool, which of them do.
        gates: is filled with the write gates of each layer, if given.
    """
    if writing is False:
        step = Step(state, write=False, gates=gates)
    else:
        step = Step(state, write=text.writes & writing, mask=text.mask, segment_ids=text.segment_ids, gates=gates)
    return forward(model, text, step)


@torch.no_grad()
def read_bare(model: PreTrainedModel, text: TextBatch) -> Answers:
    """What the bare backbone predicts, without gradients."""
    with disabled(model):
        return answers(model, forward(model, text), text)


def forward(model: PreTrainedModel, text: TextBatch, step: Step | None = None) -> Tensor:
    """Hidden states ``[B, T, D]`` of one forward pass, for which the memory must be disabled or a step given."""
    base = attached(model).base
    memory = {} if step is None else {"memory": step}
    # Padding is on the right: the causal mask is mask enough, and without another the fast attention is used.
    with in_blocks(base):
        hidden: Tensor = base(text.ids, use_cache=False, **memory).last_hidden_state
    return hidden


def answers(model: PreTrainedModel, hidden: Tensor, text: TextBatch) -> Answers:
    """The predictions of a text's trained tokens, from its hidden states ``[B, T, D]``.

    Raises:
        ValueError: the model rescales its logits in a way that is not known here.
    """
    weights = text.weights[:, 1:]
    chosen = weights > 0
    logits = _scaled(model, model.get_output_embeddings()(hidden[:, :-1][chosen]))
    return Answers(logits, text.ids[:, 1:][chosen], weights[chosen], chosen.nonzero()[:, 0])


def _scaled(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """What some models do to their logits after the output layer: Granite divides, Cohere multiplies, Gemma caps."""
    config = model.config.get_text_config(decoder=True)
    unknown = [name for name in _UNKNOWN_SCALES if getattr(config, name, None) not in (None, 1.0)]
    if unknown:
        raise ValueError(
            f"{type(model).__name__} rescales its logits by {', '.join(unknown)}, which training does not know; "
            "train on a backbone with a plain output layer."
        )
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
