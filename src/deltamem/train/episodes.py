"""Training episodes: what is written into a memory, and what is asked of it once the text is gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deltamem.state import NO_SEGMENT

# In the place of a segment: the token is read along and never written.
UNWRITTEN = -2


@dataclass(frozen=True)
class Text:
    """The tokens of one forward pass.

    Attributes:
        ids: token ids.
        weights: the loss weight of each token as a prediction; 0 for what is only read.
        segments: the segment of each token, -1 for none (see :class:`deltamem.Step`); :data:`UNWRITTEN` for what no
            adapter writes, such as what the chat template puts before the first message.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    segments: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.weights) == len(self.segments):
            raise ValueError(
                f"A text needs one weight and one segment for each token; it has {len(self.ids)} tokens, "
                f"{len(self.weights)} weights and {len(self.segments)} segments."
            )

    def __getitem__(self, part: slice) -> "Text":
        return Text(self.ids[part], self.weights[part], self.segments[part])


@dataclass(frozen=True)
class Episode:
    """A history that is written, and queries that only the memory of it can answer.

    Attributes:
        history: passages, each written by a forward pass that does not see the text of those before.
        queries: texts, each read from the memory on its own, with weights on the answer's tokens.
        full: the queries once more with the text before them, as in :class:`EpisodeBatch`; empty where joining does.
        plain: prompts that need no memory, as in :class:`EpisodeBatch`.
    """

    history: tuple[Text, ...]
    queries: tuple[Text, ...]
    full: tuple[Text, ...] = ()
    plain: tuple[Text, ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens the history has."""
        return sum(len(passage.ids) for passage in self.history)


@dataclass(frozen=True)
class TextBatch:
    """Texts padded on the right; each field ``[B, T]``.

    Attributes:
        ids: token ids, the padding id where there is no text.
        mask: bool, the real tokens.
        weights: loss weights, 0 on padding.
        segments: segment ids, -1 on padding.
    """

    ids: Tensor
    mask: Tensor
    weights: Tensor
    segments: Tensor

    @classmethod
    def pad(cls, texts: Sequence[Text], pad_id: int) -> "TextBatch":
        """One row a text; an empty text gives a row of padding."""
        longest = max(1, max((len(text.ids) for text in texts), default=0))

        def filled(rows: list[tuple[int, ...]] | list[tuple[float, ...]], value: float, dtype: torch.dtype) -> Tensor:
            return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=dtype)

        return cls(
            ids=filled([text.ids for text in texts], pad_id, torch.int64),
            mask=filled([(1,) * len(text.ids) for text in texts], 0, torch.bool),
            weights=filled([text.weights for text in texts], 0, torch.float32),
            segments=filled([text.segments for text in texts], NO_SEGMENT, torch.int64),
        )

    @property
    def writes(self) -> Tensor:
        """``[B, T]`` bool, the tokens that may write."""
        return self.segments != UNWRITTEN

    @property
    def segment_ids(self) -> Tensor:
        """``[B, T]``, the segments as :class:`deltamem.Step` takes them: -1 for none."""
        return self.segments.clamp(min=NO_SEGMENT)

    def __getitem__(self, part: Any) -> "TextBatch":
        return TextBatch(*(tensor[part] for tensor in vars(self).values()))

    def on(self, device: torch.device) -> "TextBatch":
        """The batch with its tensors on a device."""
        return TextBatch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


@dataclass(frozen=True)
class EpisodeBatch:
    """Episodes ready for the model.

    Attributes:
        passages: the forward passes that write, in order; row b of each belongs to episode b.
        queries: all queries of all episodes, Q rows.
        episode_of: ``[Q]``, the episode whose memory a query reads.
        write_queries: whether queries also write as they are read, as they do in a running chat.
        full: the queries once more with the text of their history before them, as the chat template renders it, and
            the same tokens trained. Where it is missing, history and query are joined as they are.
        plain: prompts that need no memory, with weights on the tokens whose prediction must not change.
    """

    passages: tuple[TextBatch, ...]
    queries: TextBatch
    episode_of: Tensor
    write_queries: bool = False
    full: TextBatch | None = None
    plain: TextBatch | None = None

    def on(self, device: torch.device) -> "EpisodeBatch":
        """The batch with its tensors on a device."""
        return replace(
            self,
            passages=tuple(passage.on(device) for passage in self.passages),
            queries=self.queries.on(device),
            episode_of=self.episode_of.to(device, non_blocking=True),
            full=self.full and self.full.on(device),
            plain=self.plain and self.plain.on(device),
        )

    def strangers(self) -> Tensor | None:
        """``[B]``, for each episode the next row whose history is another; ``None`` if all have the same."""
        histories = [[part.ids[row][part.mask[row]].tolist() for part in self.passages] for row in range(self.rows)]
        others: list[int] = []
        for row, own in enumerate(histories):
            following = (*range(row + 1, self.rows), *range(row))
            other = next((place for place in following if histories[place] != own), None)
            if other is None:
                return None
            others.append(other)
        return torch.tensor(others, device=self.episode_of.device)

    def check(self) -> None:
        """Refuses a batch without a loss.

        Raises:
            ValueError: a query trains no token.
        """
        trained = (self.queries.weights[:, 1:] > 0).any(1)
        if not bool(trained.all()):
            raise ValueError(f"Query {int((~trained).nonzero()[0]) + 1} of the batch {_UNTRAINED}")

    @property
    def tokens(self) -> int:
        """How many tokens are written and read, padding aside."""
        return sum(int(part.mask.sum()) for part in (*self.passages, self.queries))

    @property
    def rows(self) -> int:
        """How many episodes there are."""
        return self.passages[0].ids.shape[0]


_EMPTY = Text((), (), ())
_UNTRAINED = "trains no token: all its weights but the first are 0. Give its answer weights, or leave the query out."


def joined(history: Sequence[Text], query: Text) -> Text:
    """A query after its history; only its own tokens train, and segments keep apart what was apart."""
    ids: list[int] = []
    segments: list[int] = []
    for part in (*history, query):
        first = max(segments, default=NO_SEGMENT) + 1
        ids += part.ids
        segments += [segment if segment < 0 else first + segment for segment in part.segments]
    # Nothing predicts the first token of a query read alone, so it does not train here either.
    before = len(ids) - len(query.ids)
    weights = (*[0.0] * (before + 1), *query.weights[1:])[: len(ids)]
    return Text(tuple(ids), weights, tuple(segments))


def collate(episodes: Sequence[Episode], pad_id: int, *, write_queries: bool = False) -> EpisodeBatch:
    """A batch of episodes.

    Raises:
        ValueError: no episode has a query, a query trains no token, or only some have the full text.
    """
    if not any(episode.queries for episode in episodes):
        raise ValueError("A batch of episodes needs at least one query.")
    for row, episode in enumerate(episodes):
        for place, query in enumerate(episode.queries):
            if not any(weight > 0 for weight in query.weights[1:]):
                raise ValueError(f"Query {place + 1} of episode {row + 1} of the batch {_UNTRAINED}")
    passes = max(len(episode.history) for episode in episodes)
    columns = [[e.history[i] if i < len(e.history) else _EMPTY for e in episodes] for i in range(passes)]
    queries = [query for episode in episodes for query in episode.queries]
    full = [text for episode in episodes for text in episode.full]
    plain = [text for episode in episodes for text in episode.plain]
    if full and len(full) != len(queries):
        raise ValueError(f"Of {len(queries)} queries {len(full)} have their full text; give all of them or none.")
    return EpisodeBatch(
        passages=tuple(TextBatch.pad(column, pad_id) for column in columns),
        queries=TextBatch.pad(queries, pad_id),
        episode_of=torch.tensor([row for row, episode in enumerate(episodes) for _ in episode.queries]),
        write_queries=write_queries,
        full=TextBatch.pad(full, pad_id) if full else None,
        plain=TextBatch.pad(plain, pad_id) if plain else None,
    )


def evenly(episodes: Sequence[Episode], groups: int) -> list[list[Episode]]:
    """The episodes in ``groups`` groups of similar length, each with about the same number of tokens.

    Like lengths keep padding low; equal sums keep every step about equally long.

    Raises:
        ValueError: there are fewer episodes than groups.
    """
    if len(episodes) < groups:
        raise ValueError(f"{len(episodes)} episodes cannot fill {groups} groups.")
    waiting = sorted(episodes, key=lambda episode: episode.tokens)
    result: list[list[Episode]] = []
    for left in range(groups, 0, -1):
        share, group = sum(episode.tokens for episode in waiting) / left, [waiting.pop(0)]
        total = group[0].tokens
        while len(waiting) > left - 1 and (left == 1 or total + waiting[0].tokens / 2 < share):
            total += waiting[0].tokens
            group.append(waiting.pop(0))
        result.append(group)
    return result
