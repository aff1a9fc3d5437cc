"""Tokenised episodes in flat tensors, in which histories that several episodes share are kept once.

A table of ``datasets`` would keep such a history with each of its episodes: a LoCoMo dialogue with every question.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deltamem.train.data.encode import EncodedEpisode, EncodedLine, Numbers, Tokens
from deltamem.train.episodes import Episode, Text

# Of each episode, as places in the text.
COLUMNS = {
    "history": "where its history begins",
    "history_end": "where its history ends",
    "read": "where its visible part begins",
    "target": "where the target within the visible part begins",
    "read_end": "where the visible part ends, and the target with it",
    "before": "of its full text, where the part before the history begins; -1 without a full text, as all that follow",
    "after": "where the part before the history ends and the part after it begins",
    "shared": "where the history begins, as far as it is in the full text",
    "full_target": "the first trained token of the part after the history",
    "full_end": "where the part after the history ends",
}


@dataclass(frozen=True)
class EpisodeTable:
    """Episodes as slices of one long text.

    Attributes:
        ids: ``[T]`` int32, the tokens of histories and visible parts.
        segments: ``[T]`` int32, the segment of each.
        texts: ``[E]`` int64, a number that is the same for episodes whose histories are of one text.
        columns: the places of :data:`COLUMNS` by name, each ``[E]`` int64.
    """

    ids: Tensor
    segments: Tensor
    texts: Tensor
    columns: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.texts)

    def episode(self, index: int) -> Episode:
        """One episode; its target's tokens weigh 1."""
        at = {name: int(column[index]) for name, column in self.columns.items()}
        end, after = at["history_end"], at["after"]
        history = (self._text(at["history"], end, end),) if end > at["history"] else ()
        query = self._text(at["read"], at["target"], at["read_end"])
        if at["before"] < 0:
            return Episode(history, (query,))
        parts = ((at["before"], after, after), (at["shared"], end, end), (after, at["full_target"], at["full_end"]))
        first, told, last = (self._text(*part) for part in parts)
        full = Text(
            first.ids + told.ids + last.ids,
            first.weights + told.weights + last.weights,
            first.segments + told.segments + last.segments,
        )
        return Episode(history, (query,), (full,))

    @property
    def written(self) -> Tensor:
        """``[E]``, the tokens of each history."""
        return self.columns["history_end"] - self.columns["history"]

    @property
    def read(self) -> Tensor:
        """``[E]``, the tokens of each visible part, the target's included."""
        return self.columns["read_end"] - self.columns["read"]

    @property
    def trained(self) -> Tensor:
        """``[E]``, the tokens of each target."""
        return self.columns["read_end"] - self.columns["target"]

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
    _places: list[dict[str, int]] = field(default_factory=list)
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
            end = first + episode.history
            place = {"history": first + begin, "history_end": end, "read": read, "target": read + episode.target}
            place["read_end"] = self._size
            place |= self._full(episode, end)
            self._places.append(place)
            self._texts.append(number)
            self.cut_histories += begin > 0
            self.cut_reads += episode.cut

    def build(self) -> EpisodeTable:
        """The table."""
        columns = {name: torch.tensor([at.get(name, -1) for at in self._places], dtype=torch.int64) for name in COLUMNS}
        texts = torch.tensor(self._texts, dtype=torch.int64)
        return EpisodeTable(_tensor(self._ids), _tensor(self._segments), texts, columns)

    def _full(self, episode: EncodedEpisode, history_end: int) -> dict[str, int]:
        """Stores what of an episode's full text is not its history, and gives the places of it; none without one."""
        full = episode.full
        if full is None:
            return {}
        before = self._store(full.before, 0)
        after = self._store(full.after, 0)
        # Nothing predicts the first token of a visible part that is all target, so it does not train here either.
        target = after + full.target + (episode.target == 0)
        shared = history_end - full.shared
        return {"before": before, "after": after, "shared": shared, "full_target": target, "full_end": self._size}

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
