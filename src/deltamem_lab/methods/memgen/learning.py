"""Training of MemGen's weaver: latents after each prompt and after delimiters, the loss on the answers alone.

It is the authors' supervised stage. Their second one, a trigger that learns by GRPO when to weave, is not here: the
weaver is asked wherever it may be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deltamem.attach.cache import PAST
from deltamem_lab.backbone import empty_cache
from deltamem_lab.methods.memgen.weaver import DELIMITERS, Reading, Weaver, pad_left, positions, weaver_parameters
from deltamem_lab.methods.training import TokenRows, descend, next_token_loss


@dataclass(frozen=True)
class Exchange:
    """A prompt and its answer, and where latents go.

    Attributes:
        ids: all tokens.
        weights: the loss weight of each; 0 before the answer.
        points: the numbers of the tokens that latents come before, the answer's first one first.
    """

    ids: list[int]
    weights: list[float]
    points: list[int]


def exchanges(rows: TokenRows, tokenizer: Any, insertions: int) -> list[Exchange]:
    """Every answer of rows with all that is before it; of a row with two answers the first is the second's prompt."""
    ends = lru_cache(maxsize=None)(lambda token: ends_with_delimiter(tokenizer, token))
    found: list[Exchange] = []
    for ids, weights in zip(rows.ids.tolist(), rows.weights.tolist(), strict=True):
        # The first token of a row is never predicted.
        trained = [False, *(weight > 0 for weight in weights[1:]), False]
        starts = [place for place in range(1, len(ids)) if trained[place] and not trained[place - 1]]
        for start in starts:
            end = trained.index(False, start)
            inner = [place for place in range(start + 1, end) if ends(ids[place - 1])]
            found.append(Exchange(ids[:end], [0.0] * start + weights[start:end], [start, *inner[:insertions]]))
    return found


def ends_with_delimiter(tokenizer: Any, token: int) -> bool:
    """Whether a token's text ends with one of :data:`~deltamem_lab.methods.memgen.weaver.DELIMITERS`."""
    return str(tokenizer.decode([token])).endswith(DELIMITERS)


def weaver_loss(model: Any, weaver: Weaver, parts: Sequence[Exchange]) -> Tensor:
    """The weighted mean of the loss of the answers' tokens, read by the reasoner with the latents before them."""
    tokens = [model.get_input_embeddings()(torch.tensor(part.ids, device=model.device)) for part in parts]
    prompts = [text[: part.points[0]] for text, part in zip(tokens, parts, strict=True)]
    reading, new = Reading(model, weaver, len(parts)), prompts
    # What the reasoner reads after each prompt, with the token that each embedding is and its weight.
    tails = [text[:0] for text in tokens]
    labels: list[tuple[list[int], list[float]]] = [([], []) for _ in parts]
    for turn in range(max(len(part.points) for part in parts)):
        latents = reading.weave(new, prompt=turn == 0)
        new = [text[:0] for text in tokens]
        for number, part in enumerate(parts):
            if turn < len(part.points):
                stop = [*part.points, len(part.ids)][turn + 1]
                here = slice(part.points[turn], stop)
                new[number] = torch.cat([latents[number], tokens[number][here]])
                tails[number] = torch.cat([tails[number], new[number]])
                labels[number][0].extend([0] * weaver.plan.latents + part.ids[here])
                labels[number][1].extend([0.0] * weaver.plan.latents + part.weights[here])
    return _tail_loss(model, prompts, tails, TokenRows.pad(labels))


def _tail_loss(model: Any, prompts: Sequence[Tensor], tails: Sequence[Tensor], rows: TokenRows) -> Tensor:
    """The loss of what follows prompts; the reasoner reads these without a gradient, as nothing there is trained."""
    before, mask = pad_left(prompts)
    cache = empty_cache(model)
    with torch.no_grad():
        model.get_decoder()(
            inputs_embeds=before,
            attention_mask=mask,
            position_ids=positions(mask),
            **{PAST: cache},
            use_cache=True,
        )
    after = pad_sequence(list(tails), batch_first=True)
    whole = torch.cat([mask, mask.new_ones(after.shape[:2])], 1)
    return next_token_loss(
        model,
        rows,
        inputs_embeds=after,
        attention_mask=whole,
        position_ids=positions(whole)[:, -after.shape[1] :],
        **{PAST: cache},
    )


def fit_weaver(model: Any, weaver: Weaver, tokenizer: Any, updates: Iterable[Sequence[TokenRows]]) -> list[float]:
    """Trains a weaver on the answers of rows, as :func:`descend` does; the backbone stays as it is."""
    plan = weaver.plan

    def loss(rows: TokenRows) -> Tensor:
        return weaver_loss(model, weaver, exchanges(rows, tokenizer, plan.insertions))

    return descend(
        weaver_parameters(model, weaver),
        updates,
        loss,
        rate=plan.lora.rate,
        steps=plan.lora.steps,
        weight=lambda rows: rows.total,
    )
