"""Tokenised episodes in flat tensors, in which histories that several episodes share are kept once."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deltamem.train.data.encode import EncodedEpisode, EncodedLine, Numbers, Tokens
from deltamem.train.episodes import Episode, Text


@dataclass(frozen=True)
class EpisodeTable:
    """Episodes as slices of one long text.

    Attributes:
        ids: ``[T]`` int32, the tokens of histories and visible parts.
        segments: ``[T]`` int32, the segment of each.
        places: ``[E, 10]`` int64, where an episode's history begins and ends, where its visible part begins, where
            the target in it begins, and where both end; then of its full text where what comes before the history
            begins and ends, from where on the history is part of it, and of what comes after, which follows what
            comes before, where the target's first trained token is and where it ends. The last five are -1 without one.
        texts: ``[E]`` int64, a number that is the same for episodes whose histories are of one text.
    """

    ids: Tensor
    segments: Tensor
    places: Tensor
    texts: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def episode(self, index: int) -> Episode:
        """One episode; its target's tokens weigh 1."""
        begin, end, read, target, read_end, before, after, shared, full_target, full_end = self.places[index].tolist()
        history = (self._text(begin, end, end),) if end > begin else ()
        query = self._text(read, target, read_end)
        if before < 0:
            return Episode(history, (query,))
        first, told, last = (
            self._text(*place) for place in ((before, after, after), (shared, end, end), (after, full_target, full_end))
        )
        full = Text(
            first.ids + told.ids + last.ids,
            first.weights + told.weights + last.weights,
            first.segments + told.segments + last.segments,
        )
        return Episode(history, (query,), (full,))

    @property
    def written(self) -> Tensor:
        """``[E]``, the tokens of each history."""
        return self.places[:, 1] - self.places[:, 0]

    @property
    def read(self) -> Tensor:
        """``[E]``, the tokens of each visible part, the target's included."""
        return self.places[:, 4] - self.places[:, 2]

    @property
    def trained(self) -> Tensor:
        """``[E]``, the tokens of each target."""
        return self.places[:, 4] - self.places[:, 3]

    def _text(self, begin: int, target: int, end: int) -> Text:
        weights = (0.0,) * (target - begin) + (1.0,) * (end - target)
        return Text(tuple(self.ids[begin:end].tolist()), weights, tuple(self.segments[begin:end].tolist()))


@dataclass
class TableBuilder:
    """Collects encoded lines into a table.

    Attributes:
        write_tokens: the most tokens of a history; the last ones are kept.
        cut_histories: how many histories had more.
        cut_reads: how many visible parts had been cut.
    """

    write_tokens: int
    cut_histories: int = 0
    cut_reads: int = 0
    _ids: list[Numbers] = field(default_factory=list)
    _segments: list[Numbers] = field(default_factory=list)
    _places: list[tuple[int, ...]] = field(default_factory=list)
    _texts: list[int] = field(default_factory=list)
    _numbers: dict[bytes, int] = field(default_factory=dict)
    _size: int = 0
    _last: tuple[Tokens | None, int, int] = (None, 0, 0)

    def add(self, line: EncodedLine) -> None:
        """Adds the episodes of a line; a history that the line before had too is not stored again."""
        if not line.episodes:
            return
        number = self._number(line.history)
        first = self._history(line.history, max(0, min(e.history for e in line.episodes) - self.write_tokens))
        for episode in line.episodes:
            begin = max(0, episode.history - self.write_tokens)
            read = self._store(episode.read, 0)
            place = (first + begin, first + episode.history, read, read + episode.target, self._size)
            self._places.append((*place, *self._full(episode, place[1])))
            self._texts.append(number)
            self.cut_histories += begin > 0
            self.cut_reads += episode.cut

    def build(self) -> EpisodeTable:
        """The table."""
        places = torch.tensor(self._places, dtype=torch.int64).view(-1, 10)
        texts = torch.tensor(self._texts, dtype=torch.int64)
        return EpisodeTable(_tensor(self._ids), _tensor(self._segments), places, texts)

    def _full(self, episode: EncodedEpisode, history_end: int) -> tuple[int, int, int, int, int]:
        """Stores what of an episode's full text is not its history, and gives the five places of it."""
        full = episode.full
        if full is None:
            return (-1,) * 5
        before = self._store(full.before, 0)
        after = self._store(full.after, 0)
        # Nothing predicts the first token of a visible part that is all target, so it does not train here either.
        target = after + full.target + (episode.target == 0)
        return before, after, history_end - full.shared, target, self._size

    def _number(self, tokens: Tokens) -> int:
        """The number of a history's text; episodes without a history share none."""
        unique = f"line {len(self._numbers)}".encode()
        key = hashlib.blake2b(tokens.ids.tobytes(), digest_size=16).digest() if len(tokens.ids) else unique
        return self._numbers.setdefault(key, len(self._numbers))

    def _history(self, tokens: Tokens, unused: int) -> int:
        """Where token 0 of a history would lie, of which the first ``unused`` ones need not be stored."""
        stored, missing, first = self._last
        if stored is not tokens or missing > unused:
            first = self._store(tokens, unused) - unused
            self._last = (tokens, unused, first)
        return first

    def _store(self, tokens: Tokens, unused: int) -> int:
        begin = self._size
        self._ids.append(tokens.ids[unused:].copy())
        self._segments.append(tokens.segments[unused:].copy())
        self._size += len(tokens.ids) - unused
        return begin


def _tensor(parts: list[Numbers]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.empty(0, np.int32), *parts]))
