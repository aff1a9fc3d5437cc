"""What a query sees beside its memory: which view each episode gets, and the text of the views that show it."""

import random
import zlib
from enum import IntEnum

import torch
from torch import Tensor

from deltamem.train.episodes import EpisodeBatch, Text, TextBatch, joined


class View(IntEnum):
    """How the queries of an episode are read.

    Attributes:
        STATE: the query alone, from the memory of its history.
        STATE_AND_TEXT: the history's text is before the query, and the memory holds it too.
        NO_MEMORY: the history's text is before the query and the memory is empty. It is written as the text is read, as
            it is in a chat of which nothing has left the window yet; an empty memory only read would train nothing.
    """

    STATE = 0
    STATE_AND_TEXT = 1
    NO_MEMORY = 2


def sample_views(batch: EpisodeBatch, *, state_and_text: float, no_memory: float, seed: str) -> Tensor:
    """The view of each episode ``[B]``, drawn from the seed and the episode's own tokens.

    So an episode has the same view whichever batch, process or resumed run it comes in; another seed, another draw.
    """
    rows = batch.passages[0].ids.shape[0]
    if not state_and_text and not no_memory:
        return torch.zeros(rows, dtype=torch.int64, device=batch.episode_of.device)
    owners = batch.episode_of.tolist()
    drawn = []
    for row in range(rows):
        told = [tokens for passage in batch.passages for tokens in _tokens(passage, row)]
        asked = [
            tokens for query, owner in enumerate(owners) if owner == row for tokens in _tokens(batch.queries, query)
        ]
        chance = random.Random(f"view {seed}/{zlib.crc32(repr((told, asked)).encode())}").random()
        with_text, without_memory = chance < state_and_text + no_memory, chance < no_memory
        drawn.append(View.NO_MEMORY if without_memory else View.STATE_AND_TEXT if with_text else View.STATE)
    return torch.tensor(drawn, device=batch.episode_of.device)


def full_texts(batch: EpisodeBatch, positions: int | None = None) -> TextBatch:
    """Every query with its history's text before it: ``batch.full``, or the two joined.

    Args:
        batch: the episodes.
        positions: the most tokens the backbone has positions for; what is over is dropped from the left.

    Raises:
        ValueError: the texts do not train the tokens that the queries train, or one of those was dropped.
    """
    owners = batch.episode_of.tolist()
    texts = [_text(batch.full or batch.queries, row) for row in range(len(owners))]
    if batch.full is None:
        histories = ([_text(passage, owner) for passage in batch.passages] for owner in owners)
        texts = list(map(joined, histories, texts))
    last = slice(None if positions is None else -positions, None)
    shown = TextBatch.pad([text[last] for text in texts], pad_id=0).on(batch.queries.ids.device)
    if not torch.equal(_trained(shown), _trained(batch.queries)):
        raise ValueError(
            "Queries must train the same tokens with their history's text as without: the answers in EpisodeBatch.full "
            f"differ from those in queries, or do not fit into {positions} positions."
        )
    return shown


def mixed_texts(texts: TextBatch, others: TextBatch, choose: Tensor) -> TextBatch:
    """The rows of ``others`` where ``choose`` ``[B]`` is true, else those of ``texts``."""
    rows = [_text(others if other else texts, row) for row, other in enumerate(choose.tolist())]
    return TextBatch.pad(rows, pad_id=0).on(texts.ids.device)


def _text(batch: TextBatch, row: int) -> Text:
    ids, weights, segments = (
        tuple(tensor[row][batch.mask[row]].tolist()) for tensor in (batch.ids, batch.weights, batch.segments)
    )
    return Text(ids, weights, segments)


def _tokens(batch: TextBatch, row: int) -> list[int]:
    return batch.ids[row][batch.mask[row]].tolist()


def _trained(texts: TextBatch) -> Tensor:
    """The rows and ids of the tokens that train, in order: ``[M, 2]``."""
    chosen = texts.weights[:, 1:] > 0
    return torch.stack([chosen.nonzero()[:, 0], texts.ids[:, 1:][chosen]], 1)
