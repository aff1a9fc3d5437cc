"""MemoryBank (Zhong et al., arXiv 2305.10250): dated turns, summaries of days and of all, and forgetting."""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any, Literal

from deltamem.chat import Message
from deltamem.encoder import MINILM, lacking_encoder
from deltamem_lab.backbone import Backbone
from deltamem_lab.interface import Ask, Decoding, Document, Entry, as_messages, as_one_text, as_text, date_of
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Size
from deltamem_lab.methods.fitting import chunks
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.retrieval import PASSAGE
from deltamem_lab.methods.vectors import VectorStore, nearest

Curve = Literal["paper", "code"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATES = (
    re.compile(r"\b(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})\b"),
    re.compile(r"\b(?P<day>\d{1,2})(?:st|nd|rd|th)? (?P<month>[A-Za-z]{3})[a-z]*\.?,? (?P<year>\d{4})\b"),
    re.compile(r"\b(?P<month>[A-Za-z]{3})[a-z]*\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4})\b"),
)


def day_of(text: str) -> int | None:
    """The number of the day that a text names, counted from the year 1, or none."""
    found = next(filter(None, (pattern.search(text) for pattern in _DATES)), None)
    try:
        return date(int(found["year"]), _month(found["month"]), int(found["day"])).toordinal() if found else None
    except ValueError:
        return None


def days_of(history: Sequence[Entry]) -> list[int]:
    """The day of each entry, never before that of the entry before it.

    An entry without a date is of the same day as the one before it. A date that cannot be read counts as the next day
    where it differs from the last. A history without dates is one day.
    """
    days: list[int] = []
    day, last = 0, ""
    for entry in history:
        text = date_of(entry)
        if text and text != last:
            day, last = max(day, day_of(text) or day + 1), text
        days.append(day)
    return days


def _month(name: str) -> int:
    """1 to 12 for a number or the beginning of a month's name, or 0 for another word."""
    if name.isdigit():
        return int(name)
    return _MONTHS.index(name.lower()) + 1 if name.lower() in _MONTHS else 0


def retention(elapsed: float, strength: int, curve: Curve = "paper") -> float:
    """R, the chance that a memory is still there.

    Args:
        elapsed: days since it was learnt or last recalled, t.
        strength: S.
        curve: exp(−t/S) as in the ``paper``, or as in its authors' ``code`` exp(−t/5·S), by which what is recalled
            often goes sooner.
    """
    return math.exp(-elapsed / strength if curve == "paper" else -elapsed / 5 * strength)


@dataclass
class _Trace:
    since: int
    strength: int
    chance: float


class Forgetting:
    """Which memories are still there on a day.

    A memory is learnt with strength S = 1. Recalling it adds 1 and sets t back to 0. One number is drawn for it each
    time, uniformly from [0, 1), and it is gone once R is no larger: so it is there with probability R on any one day,
    however many days are looked at, and what is gone does not come back.
    """

    def __init__(self, seed: int, curve: Curve = "paper") -> None:
        self._curve: Curve = curve
        self._random = random.Random(seed)
        self._traces: list[_Trace] = []

    def learn(self, day: int) -> int:
        """A new memory; returns its number."""
        self._traces.append(_Trace(day, 1, self._random.random()))
        return len(self._traces) - 1

    def recall(self, number: int, day: int) -> None:
        """A memory comes to mind.

        Raises:
            ValueError: it is forgotten.
        """
        if not self.remembers(number, day):
            raise ValueError(f"Memory {number} is forgotten on day {day} and cannot be recalled.")
        trace = self._traces[number]
        self._traces[number] = _Trace(day, trace.strength + 1, self._random.random())

    def strength(self, number: int) -> int:
        """S of a memory."""
        return self._traces[number].strength

    def remembers(self, number: int, day: int) -> bool:
        """Whether a memory is still there."""
        trace = self._traces[number]
        return trace.chance < retention(max(0, day - trace.since), trace.strength, self._curve)


# As MemoryBank's code asks of its model.
_NEW_TOKENS = 400


class Summariser:
    """Lets a backbone sum up lines as an instruction says.

    What does not fit into one prompt is summed up in parts, whose summaries follow one another. A summary has at most
    400 tokens, or an eighth of the backbone's positions.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        positions = backbone.positions
        self._decoding = Decoding(_NEW_TOKENS if positions is None else min(_NEW_TOKENS, positions // 8))

    def __call__(self, tasks: Sequence[tuple[str, Sequence[str]]]) -> tuple[list[str], int]:
        """The summary for each instruction and its lines, and how many tokens were read and generated."""
        if not tasks:
            return [], 0
        parts = [(place, part) for place, task in enumerate(tasks) for part in self._parts(*task)]
        said = self.backbone.generate([_prompt(tasks[place][0], part) for place, part in parts], self._decoding)
        texts: list[list[str]] = [[] for _ in tasks]
        for (place, _), one in zip(parts, said, strict=True):
            texts[place].append(one.text)
        return ["\n".join(part) for part in texts], sum(one.prompt_tokens + one.new_tokens for one in said)

    def _parts(self, instruction: str, lines: Sequence[str]) -> list[list[str]]:
        """The lines in parts that fit into a prompt each."""
        room = self.backbone.budget(self._decoding).tokens
        if room is None:
            return [list(lines)]
        room -= self.backbone.length(_prompt(instruction, []))
        parts: list[list[str]] = [[]]
        left = room
        for line in (piece for whole in lines for piece in self._pieces(whole, room)):
            # One more for the line's end, and one for a token that the joint may split.
            tokens = self.backbone.count(line) + 2
            if tokens > left and parts[-1]:
                parts.append([])
                left = room
            parts[-1].append(line)
            left -= tokens
        return parts

    def _pieces(self, line: str, room: int) -> list[str]:
        """A line, halved until its pieces fit."""
        if self.backbone.count(line) + 2 <= room or len(line) < 2:
            return [line]
        middle = line.rfind(" ", 1, len(line) // 2 + 1) + 1 or len(line) // 2
        return [*self._pieces(line[:middle], room), *self._pieces(line[middle:], room)]


def _prompt(instruction: str, lines: Sequence[str]) -> list[Message]:
    return [{"role": "user", "content": "\n".join([instruction, *lines])}]


# As in its code.
PIECES = 6
_EVENTS = "Summarize the events and key information in the content."
_OVERALL = "Give a highly concise summary of the following events that keeps the essential key information."
_PERSONALITY = "Based on the following dialogue, please summarize the user's personality traits and emotions."
_PORTRAIT = (
    "The following are the user's exhibited personality traits and emotions throughout multiple days. Give a highly "
    "concise and general summary of the user's personality."
)


@dataclass(frozen=True)
class _Piece:
    """What can be retrieved: a turn, or the summary of a day."""

    entries: tuple[Entry, ...]
    day: int
    summary: bool = False

    @property
    def text(self) -> str:
        """What is encoded, with its date."""
        return as_one_text(self.entries)


@method("memorybank_keep", "MemoryBank without forgetting", "excerpt", on_demand=True, forgets=False)
@method("memorybank_code", "MemoryBank, forgetting as its code does", "excerpt", on_demand=True, curve="code")
@method("memorybank", "MemoryBank", "excerpt")
class MemoryBank(BackboneMethod):
    """The bare backbone with the nearest memories, a summary of everything and a portrait of the user.

    A memory is a turn or the summary of a day. Each turn of a later day recalls the memories nearest to it, which
    strengthens them, and the other turns fade (see :class:`Forgetting`); summaries do not. Answers recall without
    strengthening, because every question is asked as if it were the only one; the day is the question's, or else the
    history's last.

    Args:
        forgets: whether turns fade. Over months of a benchmark's dates next to nothing is left of them.
        pieces: how many memories are recalled.
        encoder: Hub id or folder of a sentence encoder.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        *,
        forgets: bool = True,
        curve: Curve = "paper",
        pieces: int = PIECES,
        encoder: str = MINILM,
    ) -> None:
        super().__init__(name, backbone)
        self.forgets = forgets
        self.curve: Curve = curve
        self.most = pieces
        self._summarise = Summariser(backbone)
        self._store = VectorStore(encoder)
        self.forget()

    @classmethod
    def lacks(cls, backbone: Backbone, options: MethodOptions) -> str:
        """The encoder, where it is not installed."""
        return lacking_encoder()

    def forget(self) -> None:
        """Drops memories and summaries."""
        self._pieces: list[_Piece] = []
        self._overall: list[Entry] = []
        self._known: dict[str, tuple[str, str]] = {}
        self._fading = Forgetting(self._seed, self.curve)
        self._store.hold([])

    def keep(self, history: Sequence[Entry]) -> int:
        """Sums up every day that is new or has more turns now, and lives through all days once more."""
        units = _units(self.history)
        if not units:
            return 0
        days = [list(group) for _, group in groupby(units, key=lambda unit: unit.day)]
        tokens = self._sum_up(days)
        self._pieces, learnt = [], []
        for day in days:
            summary = Document(
                f"Summary of the conversation: {self._known[_said(day)][0]}", date=date_of(day[0].entries[0])
            )
            learnt.append([*day, _Piece((summary,), day[0].day, summary=True)])
            self._pieces += learnt[-1]
        tokens += self._store.hold(piece.text for piece in self._pieces)
        if self.forgets:
            self._live(learnt)
        return tokens

    def show(self, asks: Sequence[Ask]) -> list[tuple[list[Entry], Mapping[str, Any]]]:
        """Summary and portrait, then the nearest memories that are left, in their own order."""
        texts = [piece.text for piece in self._pieces]
        rows = self._store.likeness([ask.question.text for ask in asks], texts)
        return [self._shown(self._today(ask), row) for ask, row in zip(asks, rows, strict=True)]

    def estimate(self, size: Size) -> tuple[int, int]:
        """The history is read twice for summaries, and encoded; some memories and the question are read."""
        return 3 * size.history, size.with_found(self.most, PASSAGE)

    @property
    def stored_bytes(self) -> int:
        """Memories, summaries and vectors, faded ones included."""
        texts = [piece.text for piece in self._pieces] + [as_text(entry) for entry in self._overall]
        return sum(len(text.encode()) for text in texts) + self._store.nbytes

    def _sum_up(self, days: Sequence[Sequence[_Piece]]) -> int:
        """Writes the summaries of days, of all days, and the portrait; how many tokens that took."""
        said = {_said(day): [_line(entry) for piece in day for entry in piece.entries] for day in days}
        new = [text for text in said if text not in self._known]
        found, tokens = self._summarise([(ask, said[text]) for text in new for ask in (_EVENTS, _PERSONALITY)])
        known = {**self._known, **dict(zip(new, zip(found[::2], found[1::2], strict=True), strict=True))}
        self._known = {text: known[text] for text in said}
        events, traits = ([known[_said(day)][number] for day in days] for number in (0, 1))
        dates = [date_of(day[0].entries[0]) for day in days]
        overall, more = self._summarise([(_OVERALL, _dated(dates, events)), (_PORTRAIT, _dated(dates, traits))])
        self._overall = [
            Document(f"Summary of all conversations: {overall[0]}"),
            Document(f"The user's personality: {overall[1]}"),
        ]
        return tokens + more

    def _live(self, days: Sequence[Sequence[_Piece]]) -> None:
        """Learns day after day; every turn recalls the nearest memories of the days before."""
        self._fading = Forgetting(self._seed, self.curve)
        before = 0
        for day in days:
            turns, today = day[:-1], day[0].day
            rows = self._store.likeness(
                [as_text(turn.entries[0]) for turn in turns], [piece.text for piece in self._pieces[:before]]
            )
            for row in rows:
                there = [number for number in range(before) if self._there(number, today)]
                for place in nearest(row[there], self.most):
                    if not self._pieces[there[place]].summary:
                        self._fading.recall(there[place], today)
            for _ in day:
                self._fading.learn(today)
            before += len(day)

    def _there(self, number: int, today: int) -> bool:
        return not self.forgets or self._pieces[number].summary or self._fading.remembers(number, today)

    def _shown(self, today: int, row: Any) -> tuple[list[Entry], Mapping[str, Any]]:
        there = [number for number in range(len(self._pieces)) if self._there(number, today)]
        found = sorted(there[place] for place in nearest(row[there], self.most))
        entries = [entry for number in found for entry in self._pieces[number].entries]
        return [*self._overall, *entries], {"retrieved": found, "forgotten": len(self._pieces) - len(there)}

    def _today(self, ask: Ask) -> int:
        last = self._pieces[-1].day if self._pieces else 0
        return max(last, day_of(str(ask.question.extra.get("date", ""))) or last)


def _units(history: Sequence[Entry]) -> list[_Piece]:
    """The turns and passages of a history, each with its day; none is of two days."""
    days = days_of(history)
    pieces: list[_Piece] = []
    for day, group in groupby(zip(history, days, strict=True), key=lambda pair: pair[1]):
        pieces += [_Piece(tuple(unit), day) for unit in chunks([entry for entry, _ in group], PASSAGE)]
    return pieces


def _said(day: Sequence[_Piece]) -> str:
    return "\n".join(piece.text for piece in day)


def _line(entry: Entry) -> str:
    (message,) = as_messages([entry])
    return message["content"] if isinstance(entry, Document) else f"{message['role']}: {message['content']}"


def _dated(dates: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [f"At {date}: {text}" if date else text for date, text in zip(dates, texts, strict=True)]
