"""Converting a data set's files to one file of training lines."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from deltamem.train.data.converters.chats import openai, sharegpt
from deltamem.train.data.converters.datafiles import read_rows
from deltamem.train.data.converters.dialogues import dialogues
from deltamem.train.data.converters.documents import documents
from deltamem.train.data.converters.example import Example, Row, Skipped, Style
from deltamem.train.data.converters.fairytaleqa import fairytaleqa, read_stories
from deltamem.train.data.converters.hotpotqa import hotpotqa
from deltamem.train.data.converters.mts_dialog import mts_dialog
from deltamem.train.data.converters.persona import persona
from deltamem.train.data.converters.qasper import qasper
from deltamem.train.data.converters.squad import squad
from deltamem.train.data.converters.star import star
from deltamem.train.data.lines import BadDataError, check_target, write_lines

_PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Kind:
    """A data set's layout.

    Attributes:
        examples: the training lines of one row; raises ValueError where the row has another layout.
        ask: the visible turn, unless another is asked for; ``None`` where the rows' own last turn is.
        read: the rows of a file or folder, with where they are.
    """

    examples: Callable[[Row, Style], Iterator[Example | Skipped]]
    ask: str | None = "{question}"
    read: Callable[[Path], Iterator[tuple[str, Any]]] = read_rows


KINDS: dict[str, Kind] = {
    "qasper": Kind(qasper),
    "hotpotqa": Kind(hotpotqa, "{question}\nReply with a short span or yes/no only."),
    "locomo": Kind(dialogues, "{question}\nWrite a short answer in a few words."),
    "squad": Kind(squad),
    "documents": Kind(documents, "Continue with the next paragraph."),
    "fairytaleqa": Kind(fairytaleqa, read=read_stories),
    "mts-dialog": Kind(mts_dialog),
    "star": Kind(star),
    "synthetic-persona-chat": Kind(persona),
    "sharegpt": Kind(sharegpt, None),
    "openai": Kind(openai, None),
}


@dataclass(frozen=True)
class Conversion:
    """What became of the rows.

    Attributes:
        skipped: how many questions or documents made no line, by reason.
        longer: how many lines were left out for being longer than the shortest that were asked for.
        longest: the length of the longest line that was written, as ``measure`` has it.
    """

    rows: int
    lines: int
    skipped: dict[str, int]
    longer: int = 0
    longest: int = 0


def convert(
    kind: str,
    source: Path,
    target: Path,
    *,
    ask: str | None = None,
    style: Style | None = None,
    shortest: int | None = None,
    measure: Callable[[Example], int] = attrgetter("characters"),
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Conversion:
    """Writes the training lines of a data set to a ``.jsonl`` or ``.jsonl.gz`` file, all of them or none.

    Args:
        kind: a key of :data:`KINDS`.
        source: a file or folder of the data set.
        target: the file to write.
        ask: the visible turn; the kind's own if not given.
        style: how lines are put together otherwise.
        shortest: keep only so many lines, the shortest, in their order.
        measure: the length of a line; by default its characters.
        progress: wraps the rows as they are read.

    Raises:
        BadDataError: the source cannot be read, has another layout, or gives no line; the message names the place.
        ValueError: there is no such kind, the target's name has another ending, or ``ask`` does not fit the kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no converter {kind!r}; there are {', '.join(KINDS)}.")
    check_target(target)
    layout, rows = KINDS[kind], 0
    chosen = replace(style or Style(), ask=_checked_ask(kind, ask))
    examples: list[Example] = []
    skipped: Counter[str] = Counter()
    for place, row in progress(layout.read(source)):
        rows += 1
        named = {"id": str(rows), **row} if isinstance(row, dict) else row
        try:
            for item in layout.examples(named, chosen):
                if isinstance(item, Example):
                    examples.append(item)
                else:
                    skipped[item.reason] += 1
        except (ValueError, TypeError, AttributeError) as error:
            raise BadDataError(f"{place} does not have the layout of {kind}: {error}.") from error
    if not examples:
        raise BadDataError(f"{source} gives no training line ({rows} rows, skipped: {dict(skipped)}).")
    kept = examples if shortest is None else _shortest(examples, shortest, measure)
    write_lines(target, ({"id": item.name, "messages": list(item.messages)} for item in kept))
    return Conversion(rows, len(kept), dict(skipped), len(examples) - len(kept), max(map(measure, kept)))


def _checked_ask(kind: str, ask: str | None) -> str:
    """The visible turn of a kind, or the one that is asked for instead."""
    own = KINDS[kind].ask
    if ask is None:
        return own or ""
    if own is None:
        raise ValueError(f"The last turn of a {kind} conversation is fixed; leave out ask (--ask).")
    unknown = sorted(set(_PLACE.findall(ask)) - {"question"})
    if unknown:
        raise ValueError(f"ask (--ask) has {{{unknown[0]}}}; the only placeholder is {{question}}.")
    if "{question}" in own and "{question}" not in ask:
        raise ValueError("ask (--ask) needs {question} in it, or every line would ask the same thing.")
    if "{question}" in ask and "{question}" not in own:
        raise ValueError(f"{kind} has no questions, so that ask (--ask) cannot have {{question}} in it.")
    return ask


def _shortest(examples: list[Example], count: int, measure: Callable[[Example], int]) -> list[Example]:
    lengths = [measure(item) for item in examples]
    kept = sorted(sorted(range(len(examples)), key=lengths.__getitem__)[:count])
    return [examples[number] for number in kept]
