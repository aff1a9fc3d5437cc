"""From records to tables: means with intervals, differences with verdicts, and what is answerable without memory."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from deltamem_lab.interface import Cost
from deltamem_lab.methods.registry import adapter_of, is_static, static_of
from deltamem_lab.names import STATIC
from deltamem_lab.published import WITHOUT_HISTORY
from deltamem_lab.records import HARNESS, Record
from deltamem_lab.statistics import Difference, Interval, corrected, paired_difference, rate_interval

NONE = "none"
STRANGER = "shuffled"
_EMPTY, _RETRIEVAL, _FULL = "empty", "bm25", "full"
# What every method is compared with, in this order: nothing, the three controls of its own adapter, text.
_REFERENCES = (NONE, _EMPTY, STRANGER, STATIC, _RETRIEVAL, _FULL)
_CONTROLS = frozenset({_EMPTY, STRANGER, STATIC})
# From this score on an answer counts as right where only right and wrong matter.
RIGHT = 0.5


@dataclass(frozen=True)
class MethodSummary:
    """A method on a task.

    Attributes:
        items: of how many items; of fewer than six, intervals are over questions.
        mean: of the main metric over questions, with its interval.
        averages: the mean by each of the task's ways to average, the published way first.
        categories: by category, in the task's order.
        subsets: by named subset.
        metrics: the means of all metrics, each question with its weight.
        differences: against each reference that ran, on the questions both answered; of a control of adapters, that
            of its own adapter. Their verdicts hold among all of the table.
        known: the mean on the questions that the run without context answers right; ``None`` if there are none.
        unknown: the mean on the others: what has to come from what was read.
        cost: the mean of every cost.
    """

    method: str
    questions: int
    items: int
    mean: Interval
    averages: dict[str, float]
    categories: dict[str, Interval]
    subsets: dict[str, Interval]
    metrics: dict[str, float]
    differences: dict[str, Difference]
    known: Interval | None
    unknown: Interval | None
    cost: dict[str, float]


@dataclass(frozen=True)
class TaskSummary:
    """A task under a protocol.

    Attributes:
        items: histories.
        known: how many of them the run without context answers right; ``None`` without such a run or histories.
        references: what all methods are compared with.
        methods: in the order of the records.
    """

    task: str
    protocol: str
    metric: str
    models: tuple[str, ...]
    revisions: tuple[str, ...]
    items: int
    questions: int
    known: int | None
    references: tuple[str, ...]
    methods: tuple[MethodSummary, ...]


Answers = dict[tuple[str, str, int], Record]


def summarise(records: Iterable[Record]) -> list[TaskSummary]:
    """A summary for each task and protocol, in the order of the records."""
    found: dict[tuple[str, str], dict[str, Answers]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        found[record.task, record.protocol][record.method][record.item, record.question, record.seed] = record
    return [_task(task, protocol, methods) for (task, protocol), methods in found.items()]


def reads_nothing(task: str, protocol: str) -> bool:
    """Whether nothing is read before the questions of a task."""
    return task in WITHOUT_HISTORY or protocol == HARNESS


def references(methods: Iterable[str]) -> tuple[str, ...]:
    """What methods are compared with, of what ran: no context, the controls, BM25, the full context."""
    there = {STATIC if is_static(name) else name.partition(":")[0] for name in methods}
    return tuple(name for name in _REFERENCES if name in there)


def reference_of(method: str, reference: str, methods: Mapping[str, str]) -> str | None:
    """What a method is compared with: of the controls, the one that has its own adapter.

    Returns:
        the name of what ran, or ``None``: nothing like it ran, or only for other adapters.
    """
    if reference not in _CONTROLS:
        return reference if reference in methods and reference != method else None
    adapter = adapter_of(method)
    own = static_of(adapter or "") if reference == STATIC else f"{reference}:{adapter}"
    if adapter and own in methods:
        return own if own != method else None
    # A control that names no adapter has the main one's.
    if reference in methods and reference != method and (not adapter or adapter == _main(methods)):
        return reference
    return None


def compare_all(
    methods: Mapping[str, str], compare: Callable[[str, str], Difference | None]
) -> dict[tuple[str, str], Difference]:
    """The difference of each method from each reference, by both names; the verdicts hold together.

    Args:
        methods: the fingerprint of what was trained for each.
        compare: a method with another; ``None`` where they cannot be compared.
    """
    compared = references(methods)
    found = {
        (name, reference): difference
        for name in methods
        for reference in compared
        if (other := reference_of(name, reference, methods)) and (difference := compare(name, other))
    }
    return corrected(found)


def _main(methods: Mapping[str, str]) -> str | None:
    """The adapter that controls without a name are about: they have its weights, or it is the only one."""
    named = {
        adapter: prints
        for name, prints in methods.items()
        if (adapter := adapter_of(name)) and adapter == name and not is_static(name)
    }
    bare = {methods[name] for name in (_EMPTY, STRANGER, "noise") if name in methods}
    alike = [name for name, prints in named.items() if prints in bare]
    others = alike or [name for name in named if not bare]
    return others[0] if len(others) == 1 else None


def _task(task: str, protocol: str, methods: dict[str, Answers]) -> TaskSummary:
    everything = [record for answers in methods.values() for record in answers.values()]
    # Where there is nothing to remember, no answer needs a memory.
    bare = {} if reads_nothing(task, protocol) else methods.get(NONE, {})
    known = {key for key, record in bare.items() if record.score >= RIGHT}
    prints = {name: next(iter(answers.values())).adapter for name, answers in methods.items()}
    held = compare_all(prints, lambda name, other: _compare(methods[name], methods[other]))
    return TaskSummary(
        task=task,
        protocol=protocol,
        metric=everything[0].main_metric,
        models=_distinct(record.model for record in everything),
        revisions=_distinct(record.data_revision for record in everything),
        items=len({record.item for record in everything}),
        questions=len({key for answers in methods.values() for key in answers}),
        known=len(known) if bare else None,
        references=references(methods),
        methods=tuple(
            _method(name, answers, {other: one for (own, other), one in held.items() if own == name}, known, bool(bare))
            for name, answers in methods.items()
        ),
    )


def _method(
    name: str,
    answers: Answers,
    differences: dict[str, Difference],
    known: set[tuple[str, str, int]],
    has_bare: bool,
) -> MethodSummary:
    records = list(answers.values())
    categories = _distinct(record.category for record in records if record.category)
    subsets = _distinct(subset for record in records for subset in record.subsets)
    return MethodSummary(
        method=name,
        questions=len(records),
        items=len({record.item for record in records}),
        mean=mean_score(records),
        averages={kind: _average(records, kind) for kind in records[0].averages},
        categories={one: mean_score([r for r in records if r.category == one]) for one in categories},
        subsets={one: mean_score([r for r in records if one in r.subsets]) for one in subsets},
        metrics=_metrics(records),
        differences=differences,
        known=_mean_or_none([record for key, record in answers.items() if key in known]) if has_bare else None,
        unknown=_mean_or_none([record for key, record in answers.items() if key not in known]) if has_bare else None,
        cost={
            field.name: sum(getattr(record.cost, field.name) for record in records) / len(records)
            for field in fields(Cost)
        },
    )


def _compare(answers: Answers, theirs: Answers) -> Difference | None:
    shared = [key for key in answers if key in theirs]
    if not shared:
        return None
    items, asked, _ = zip(*shared, strict=True)
    return paired_difference(
        [answers[key].score for key in shared], [theirs[key].score for key in shared], items, asked
    )


def _average(records: Sequence[Record], kind: str) -> float:
    """The mean over questions, or over the means of the categories or sources."""
    if kind == "question":
        return sum(record.score for record in records) / len(records)
    groups: dict[str, list[float]] = defaultdict(list)
    for record in records:
        groups[record.category if kind == "category" else record.source].append(record.score)
    return sum(sum(scores) / len(scores) for scores in groups.values()) / len(groups)


def mean_score(records: Sequence[Record]) -> Interval:
    """The mean score of questions, with its interval over items."""
    return rate_interval([r.score for r in records], [r.item for r in records], [r.question for r in records])


def _mean_or_none(records: Sequence[Record]) -> Interval | None:
    return mean_score(records) if records else None


def _metrics(records: Sequence[Record]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    for record in records:
        for name, value in record.scores.items():
            weight = record.weights.get(name, 1.0)
            totals[name] += weight * value
            weights[name] += weight
    return {name: total / weights[name] for name, total in totals.items() if weights[name]}


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def as_data(task: TaskSummary) -> dict[str, Any]:
    """Every number of a summary; rates lie in [0, 1], methods are by name."""
    data = asdict(task)
    data["methods"] = {method.pop("method"): method for method in data["methods"]}
    return data
