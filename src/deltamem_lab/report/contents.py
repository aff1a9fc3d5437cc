"""What a report of runs says: tables, drawings and examples, from records alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from deltamem.wording import counted
from deltamem_lab.methods import describe_method, is_control
from deltamem_lab.names import STATIC
from deltamem_lab.records import Record
from deltamem_lab.report.beside import beside, paper_table
from deltamem_lab.report.blocks import Block, Chart, Heading, Paragraph, Table
from deltamem_lab.report.charts import category_bars
from deltamem_lab.report.costs import costs, marked
from deltamem_lab.report.curves import curves
from deltamem_lab.report.examples import examples
from deltamem_lab.report.learning import TrainingLog, learning
from deltamem_lab.statistics import EXPLAINED, LEAST_ITEMS, Difference, Interval
from deltamem_lab.summary import STRANGER, MethodSummary, TaskSummary, reads_nothing, summarise

# The difference that it is told of how many items it needs.
_SMALL = 0.05
_AVERAGES = {
    "question": "over questions",
    "category": "over the means of the categories",
    "source": "over the means of the sources",
}
# Metrics whose names do not tell what they are.
_METRICS = {
    "outdated": "the answer is the value before a correction, of questions about corrected facts",
    "abstained": "the answer is that it is not known, be that right or wrong",
}


def contents(
    records: Sequence[Record], absent: Mapping[str, str] | None = None, trainings: Sequence[TrainingLog] = ()
) -> list[Block]:
    """The blocks of a report.

    Raises:
        ValueError: there is nothing to report.
    """
    if not records and not trainings:
        raise ValueError("There are no records to report.")
    blocks: list[Block] = [Heading("Evaluation", 1)]
    if records:
        blocks.append(Paragraph(_about(records)))
    tasks = summarise(records)
    for task in tasks:
        own = [r for r in records if (r.task, r.protocol) == (task.task, task.protocol)]
        blocks += _task(task, own, absent or {})
    return [*blocks, *paper_table(tasks, records), *learning(trainings)]


def questions(method: MethodSummary) -> str:
    """How many questions a method was asked; of few items also of how many, as intervals are over questions then."""
    return f"{method.questions:,}" + (f" of {method.items} items" if method.items < LEAST_ITEMS else "")


def percent(interval: Interval) -> str:
    """A rate and its interval, in percent."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def verdict(difference: Difference | None) -> str:
    """A difference in points, and what it is worth in words."""
    if difference is None:
        return "–"
    one = difference.interval
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}] {difference.verdict}"


def power(differences: Sequence[Difference]) -> str:
    """How large a difference has to be to be found among those of a table, and how many items a small one needs."""
    known = [one for one in differences if 0 < one.error < math.inf]
    if not known:
        return ""
    points = [100 * one.findable(len(differences)) for one in known]
    items = median(one.items_for(_SMALL, len(differences)) for one in known)
    return (
        f"Among these {len(differences)} verdicts a true difference is found in four runs of five if it is "
        f"{median(points):.1f} points (the median of the pairs; from {min(points):.1f} to {max(points):.1f}); one of "
        f"{100 * _SMALL:.0f} points needs about {items:,.0f} items."
    )


def _about(records: Sequence[Record]) -> str:
    versions = sorted({f"{name} {version}" for record in records for name, version in record.versions.items()})
    seeds = sorted({record.seed for record in records})
    return f"{len(records):,} answers, seeds {', '.join(map(str, seeds))}; {', '.join(versions)}. {EXPLAINED}"


def _task(task: TaskSummary, records: Sequence[Record], absent: Mapping[str, str]) -> list[Block]:
    names = [method.method for method in task.methods]
    controls = frozenset(name for name in names if is_control(name))
    return [
        Heading(f"{task.task}, protocol {task.protocol}"),
        Paragraph(
            f"{counted(task.items, 'item')}, {counted(task.questions, 'question')}. Metric: {task.metric}. Backbone: "
            f"{', '.join(filter(None, task.models)) or 'not named'}. Data: {', '.join(task.revisions)}."
        ),
        _main_table(task, controls, absent),
        Paragraph(_reading(task)),
        *beside(task, records),
        *_groups(task, controls),
        *_bars(task, controls),
        *costs(task, controls),
        *curves(records, names),
        *examples(records, names),
    ]


def _main_table(task: TaskSummary, controls: frozenset[str], absent: Mapping[str, str]) -> Table:
    head = ["method", "what it is", "questions", f"{task.metric}, %", *(f"against {name}" for name in task.references)]
    if task.known is not None:
        head += ["needs memory, %", "answerable without, %"]
    rows = []
    for method in task.methods:
        row = [method.method, describe_method(method.method), questions(method), percent(method.mean)]
        row += [verdict(method.differences.get(name)) for name in task.references]
        if task.known is not None:
            row += ["–" if part is None else percent(part) for part in (method.unknown, method.known)]
        rows.append(row)
    left_out = [(name, why) for name, why in absent.items() if name not in {method.method for method in task.methods}]
    rows += [[name, f"{describe_method(name)}; not run: {why}", *["–"] * (len(head) - 2)] for name, why in left_out]
    return Table(head, rows, marked(task, controls) | frozenset(range(len(task.methods), len(rows))))


def _reading(task: TaskSummary) -> str:
    said = []
    if reads_nothing(task.task, task.protocol):
        return "Nothing is read before the question: what differs is what an adapter does to the backbone, not memory."
    if fewer := [method.method for method in task.methods if method.questions < task.questions]:
        said.append(
            f"Only some of the questions were asked of {', '.join(fewer)}. Differences are on the questions that both "
            "were asked; the other numbers of these rows are of other questions than the rows beside them."
        )
    if task.known is not None:
        said.append(
            f"Of {task.questions:,} questions {task.known:,} are answered right by the backbone without any context; "
            "“needs memory” leaves them out, so it is zero, or nearly, for no context by definition."
        )
    if said_power := power([one for method in task.methods for one in method.differences.values()]):
        said.append(said_power)
    if not set(task.references).isdisjoint({"empty", STRANGER, STATIC}):
        said.append(
            "Controls are of a method's own adapter: where only another's ran, there is no difference; methods without "
            "an adapter are set against the main one's."
        )
    if STATIC in task.references:
        said.append("Only what a memory gains over the static control, if that was trained alike, is memory.")
    elif STRANGER in task.references:
        said.append(
            "No static control ran. The difference from another item's memory is an upper bound of what is memory: an "
            "adapter comes to rely on a memory of its own, so a stranger's may harm it."
        )
    else:
        said.append("No control ran, so these numbers do not tell memory from habit.")
    return " ".join(said)


def _groups(task: TaskSummary, controls: frozenset[str]) -> list[Block]:
    """Categories, subsets, other metrics and other averages, where there are any."""
    first = task.methods[0]
    columns: list[tuple[str, list[str]]] = []
    if len(first.averages) > 1:
        for kind in first.averages:
            cells = [f"{100 * method.averages[kind]:.1f}" for method in task.methods]
            columns.append((f"mean {_AVERAGES.get(kind, kind)}", cells))
    for name in _every(method.categories for method in task.methods):
        columns.append((name, [_cell(method.categories.get(name)) for method in task.methods]))
    for name in _every(method.subsets for method in task.methods):
        columns.append((f"only {name}", [_cell(method.subsets.get(name)) for method in task.methods]))
    for name in _every(method.metrics for method in task.methods):
        if name != task.metric:
            rates = [method.metrics.get(name) for method in task.methods]
            columns.append((name, ["–" if rate is None else f"{100 * rate:.1f}" for rate in rates]))
    if not columns:
        return []
    rows = [[method.method, *(cells[number] for _, cells in columns)] for number, method in enumerate(task.methods)]
    head = ["method", *(name for name, _ in columns)]
    told = "; ".join(f"“{name}”: {_METRICS[name]}" for name in head if name in _METRICS)
    return [
        Heading("Averages, categories and other metrics, %", 3),
        *([Paragraph(f"{told}.")] if told else []),
        Table(head, rows, marked(task, controls)),
    ]


def _bars(task: TaskSummary, controls: frozenset[str]) -> list[Block]:
    names = _every(method.categories for method in task.methods)
    categories = {name: {m.method: m.categories[name] for m in task.methods if name in m.categories} for name in names}
    caption = f"{task.metric} by category, percent, with 95 % intervals. Controls are grey."
    return [Chart(category_bars(categories, controls), caption)] if categories else []


def _cell(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.value:.1f}"


def _every(groups: Iterable[Iterable[str]]) -> list[str]:
    """All names, each once, in the order they come."""
    return list(dict.fromkeys(name for group in groups for name in group))
