"""Results small enough to keep: of each method the sum of its scores on each item, and what a question cost it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltamem.files import write_atomically
from deltamem_lab.methods import describe_method, is_control
from deltamem_lab.notes import Notes
from deltamem_lab.records import Record

_FORMAT = "deltamem-leaderboard/2"
_LISTS = ("commands", "items", "seeds", "questions", "sources")
COSTS = ("write_tokens", "prompt_tokens", "stored_bytes")


@dataclass(frozen=True)
class MethodResults:
    """A method's results.

    Attributes:
        control: whether it shows what is not memory.
        scores: the sum of the main metric over the questions of each item; ``None`` where it did not run.
        cost: the means over questions of :data:`COSTS`.
        adapter: the fingerprint of what was trained for it, by which its own controls are known.
    """

    method: str
    about: str
    control: bool
    scores: tuple[float | None, ...]
    cost: Mapping[str, float]
    adapter: str = ""


@dataclass(frozen=True)
class Results:
    """All methods on a task.

    Attributes:
        absent: methods that were left out, each with the reason.
        seeds: of each item, that of the run it belongs to.
        questions: of each item, how many.
        sources: of each item, the part of the benchmark it comes from.
    """

    task: str
    protocol: str
    metric: str
    model: str
    versions: Mapping[str, str]
    commands: tuple[str, ...]
    absent: Mapping[str, str]
    items: tuple[str, ...]
    seeds: tuple[int, ...]
    questions: tuple[int, ...]
    sources: tuple[str, ...]
    entries: tuple[MethodResults, ...]


def collect(records: Iterable[Record], notes: Notes) -> list[Results]:
    """The results of a run, one for each task, protocol and backbone.

    Raises:
        ValueError: a method has answered a part of an item's questions, so the run is not done.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.task, record.protocol, record.model].append(record)
    return [_results(group, notes) for group in groups.values()]


def save_results(results: Results, folder: Path) -> Path:
    """Writes results to a file that is named by task, protocol and backbone, a line a method; says where it lies."""
    parts = dict.fromkeys((results.task, results.protocol, results.model.rstrip("/").rpartition("/")[2] or "unnamed"))
    path = folder / f"{'-'.join(parts)}.json"
    data = {"format": _FORMAT, **asdict(results)}
    entries = ",\n".join(f"  {_json(entry)}" for entry in data.pop("entries"))
    lines = [f' "{name}": {_json(value)}' for name, value in data.items()]
    text = "{\n" + ",\n".join([*lines, f' "entries": [\n{entries}\n ]']) + "\n}\n"
    write_atomically(path, text.encode())
    return path


def load_results(path: Path) -> Results:
    """Reads what :func:`save_results` wrote.

    Raises:
        OSError: the file is not there.
        ValueError: it is not such a file.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if data.pop("format") != _FORMAT:
            raise ValueError("another format")
        entries = tuple(MethodResults(**{**entry, "scores": tuple(entry["scores"])}) for entry in data.pop("entries"))
        lists: dict[str, Any] = {name: tuple(data.pop(name)) for name in _LISTS}
        found = Results(**data, **lists, entries=entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} has no results of deltamem leaderboard; make it again from its run.") from None
    lists_of_items = (found.items, found.seeds, found.questions, found.sources)
    lengths = {*map(len, lists_of_items), *(len(entry.scores) for entry in entries)}
    if len(lengths) != 1:
        raise ValueError(f"{path} is damaged: its lists have different lengths; make it again from its run.")
    return found


def _results(records: Sequence[Record], notes: Notes) -> Results:
    first = records[0]
    methods: dict[str, list[Record]] = defaultdict(list)
    asked: dict[tuple[str, int], set[str]] = defaultdict(set)
    sources = {(record.item, record.seed): record.source for record in records}
    for record in records:
        methods[record.method].append(record)
        asked[record.item, record.seed].add(record.question)
    items = sorted(asked, key=lambda item: (item[1], item[0]))
    return Results(
        task=first.task,
        protocol=first.protocol,
        metric=first.main_metric,
        model=first.model,
        versions=first.versions,
        commands=notes.commands,
        absent={name: why for name, why in notes.absent.items() if name not in methods},
        items=tuple(item for item, _ in items),
        seeds=tuple(seed for _, seed in items),
        questions=tuple(len(asked[item]) for item in items),
        sources=tuple(sources[item] for item in items),
        entries=tuple(_entry(name, own, items, asked) for name, own in methods.items()),
    )


def _entry(
    method: str,
    records: Sequence[Record],
    items: Sequence[tuple[str, int]],
    asked: Mapping[tuple[str, int], set[str]],
) -> MethodResults:
    scores: dict[tuple[str, int], list[float]] = defaultdict(list)
    for record in records:
        scores[record.item, record.seed].append(record.score)
    if unfinished := [item for item, found in scores.items() if len(found) != len(asked[item])]:
        item, seed = unfinished[0]
        raise ValueError(
            f"{method} has answered only some questions about item {item}, seed {seed}: the run is not finished. "
            "Continue it with the same command."
        )
    return MethodResults(
        method=method,
        about=describe_method(method),
        control=is_control(method),
        scores=tuple(round(sum(scores[item]), 6) if item in scores else None for item in items),
        cost={name: round(sum(getattr(r.cost, name) for r in records) / len(records), 1) for name in COSTS},
        adapter=records[0].adapter,
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
