"""From records to tables: means with intervals, differences with verdicts, and what is answerable without memory."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from deltamem_lab.interface import Cost
from deltamem_lab.published import WITHOUT_HISTORY
from deltamem_lab.records import HARNESS, Record
from deltamem_lab.statistics import Difference, Interval, paired_difference, rate_interval

NONE = "none"
_STATIC, _STRANGER, _RETRIEVAL = "static", "shuffled", "bm25"
# From this score on an answer counts as right where only right and wrong matter.
RIGHT = 0.5


@dataclass(frozen=True)
class MethodSummary:
    """A method on a task.

    Attributes:
        method: its name.
        questions: how many it answered.
        items: of how many items; of fewer than six, intervals are over questions.
        mean: of the main metric over questions, with its interval.
        averages: the mean by each of the task's ways to average, the published way first.
        categories: by category, in the task's order.
        subsets: by named subset.
        metrics: the means of all metrics, each question with its weight.
        differences: against each reference that ran, on the questions both answered.
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
        task: the benchmark.
        protocol: of it.
        metric: its main metric.
        models: the backbones.
        revisions: of the data.
        items: histories.
        questions: questions, of all seeds.
        known: how many of them the run without context answers right; ``None`` without such a run or histories.
        references: the methods that all others are compared with.
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
    """What methods are compared with: no context, the static control (a stranger's memory without one), BM25."""
    there = set(methods)
    control = _STATIC if _STATIC in there else _STRANGER
    return tuple(name for name in (NONE, control, _RETRIEVAL) if name in there)


def _task(task: str, protocol: str, methods: dict[str, Answers]) -> TaskSummary:
    everything = [record for answers in methods.values() for record in answers.values()]
    # Where there is nothing to remember, no answer needs a memory.
    bare = {} if reads_nothing(task, protocol) else methods.get(NONE, {})
    known = {key for key, record in bare.items() if record.score >= RIGHT}
    compared = references(methods)
    return TaskSummary(
        task=task,
        protocol=protocol,
        metric=everything[0].main_metric,
        models=_distinct(record.model for record in everything),
        revisions=_distinct(record.data_revision for record in everything),
        items=len({record.item for record in everything}),
        questions=len({key for answers in methods.values() for key in answers}),
        known=len(known) if bare else None,
        references=compared,
        methods=tuple(
            _method(name, answers, {other: methods[other] for other in compared if other != name}, known, bool(bare))
            for name, answers in methods.items()
        ),
    )


def _method(
    name: str,
    answers: Answers,
    compared: dict[str, Answers],
    known: set[tuple[str, str, int]],
    has_bare: bool,
) -> MethodSummary:
    records = list(answers.values())
    categories = _distinct(record.category for record in records if record.category)
    subsets = _distinct(subset for record in records for subset in record.subsets)
    differences = {other: _compare(answers, theirs) for other, theirs in compared.items()}
    return MethodSummary(
        method=name,
        questions=len(records),
        items=len({record.item for record in records}),
        mean=_mean(records),
        averages={kind: _average(records, kind) for kind in records[0].averages},
        categories={one: _mean([r for r in records if r.category == one]) for one in categories},
        subsets={one: _mean([r for r in records if one in r.subsets]) for one in subsets},
        metrics=_metrics(records),
        differences={other: found for other, found in differences.items() if found is not None},
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
    return paired_difference(
        [answers[key].score for key in shared], [theirs[key].score for key in shared], [key[0] for key in shared]
    )


def _average(records: Sequence[Record], kind: str) -> float:
    """The mean over questions, or over the means of the categories or sources."""
    if kind == "question":
        return sum(record.score for record in records) / len(records)
    groups: dict[str, list[float]] = defaultdict(list)
    for record in records:
        groups[record.category if kind == "category" else record.source].append(record.score)
    return sum(sum(scores) / len(scores) for scores in groups.values()) / len(groups)


def _mean(records: Sequence[Record]) -> Interval:
    return rate_interval([record.score for record in records], [record.item for record in records])


def _mean_or_none(records: Sequence[Record]) -> Interval | None:
    return _mean(records) if records else None


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
