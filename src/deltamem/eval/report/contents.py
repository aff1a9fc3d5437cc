"""What a report of runs says: tables, drawings and examples, from records alone."""

from collections.abc import Iterable, Mapping, Sequence

from deltamem.eval.methods import describe_method, is_control
from deltamem.eval.methods.registry import STATIC
from deltamem.eval.published import PROTOCOL, SOURCE, published_for
from deltamem.eval.records import Record
from deltamem.eval.report.blocks import Block, Chart, Heading, Paragraph, Table
from deltamem.eval.report.charts import category_bars, pareto
from deltamem.eval.report.examples import examples
from deltamem.eval.report.forgetting import forgetting
from deltamem.eval.report.learning import Training, learning
from deltamem.eval.statistics import Difference, Interval
from deltamem.eval.summary import MethodSummary, TaskSummary, summarise

_AVERAGES = {
    "question": "over questions",
    "category": "over the means of the categories",
    "source": "over the means of the sources",
}


def contents(
    records: Sequence[Record], absent: Mapping[str, str] | None = None, trainings: Sequence[Training] = ()
) -> list[Block]:
    """The blocks of a report.

    Args:
        records: of the runs.
        absent: the methods that were left out, each with the reason.
        trainings: what trainings logged.

    Raises:
        ValueError: there is nothing to report.
    """
    if not records and not trainings:
        raise ValueError("There are no records to report.")
    blocks: list[Block] = [Heading("Evaluation", 1)]
    if records:
        blocks.append(Paragraph(_about(records)))
    for task in summarise(records):
        own = [r for r in records if (r.task, r.protocol) == (task.task, task.protocol)]
        blocks += _task(task, own, absent or {})
    return [*blocks, *learning(trainings)]


def percent(interval: Interval) -> str:
    """A rate and its interval, in percent."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def verdict(difference: Difference | None) -> str:
    """A difference in points, and what it is worth in words."""
    if difference is None:
        return "–"
    one = difference.interval
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}] {difference.verdict}"


def _about(records: Sequence[Record]) -> str:
    versions = sorted({f"{name} {version}" for record in records for name, version in record.versions.items()})
    seeds = sorted({record.seed for record in records})
    return (
        f"{len(records):,} answers, seeds {', '.join(map(str, seeds))}; {', '.join(versions)}. Intervals are 95 %, by "
        "a bootstrap over items, so that questions about one text stand or fall together; differences are paired, on "
        "the same questions. “Better” and “worse” mean that the interval leaves zero out and at least six "
        "items differ. Each is one of many comparisons: of twenty without any difference, one would be expected to."
    )


def _task(task: TaskSummary, records: Sequence[Record], absent: Mapping[str, str]) -> list[Block]:
    names = [method.method for method in task.methods]
    controls = frozenset(name for name in names if is_control(name))
    blocks: list[Block] = [
        Heading(f"{task.task}, protocol {task.protocol}"),
        Paragraph(
            f"{task.items:,} items, {task.questions:,} questions. Metric: {task.metric}. Backbone: "
            f"{', '.join(filter(None, task.models)) or 'not named'}. Data: {', '.join(task.revisions)}."
        ),
        _main_table(task, controls, absent),
        Paragraph(_reading(task)),
        *_groups(task, controls),
        _cost_table(task, controls),
    ]
    blocks += [*_charts(task, controls), *forgetting(records, names), *_published(task), *examples(records, names)]
    return blocks


def _main_table(task: TaskSummary, controls: frozenset[str], absent: Mapping[str, str]) -> Table:
    head = ["method", "what it is", f"{task.metric}, %", *(f"against {name}" for name in task.references)]
    if task.known is not None:
        head += ["needs memory, %", "answerable without, %"]
    rows = []
    for method in task.methods:
        row = [method.method, describe_method(method.method), percent(method.mean)]
        row += [verdict(method.differences.get(name)) for name in task.references]
        if task.known is not None:
            row += ["–" if part is None else percent(part) for part in (method.unknown, method.known)]
        rows.append(row)
    left_out = [(name, why) for name, why in absent.items() if name not in {method.method for method in task.methods}]
    rows += [[name, f"{describe_method(name)}; not run: {why}", *["–"] * (len(head) - 2)] for name, why in left_out]
    return Table(head, rows, _marked(task, controls) | frozenset(range(len(task.methods), len(rows))))


def _reading(task: TaskSummary) -> str:
    said = []
    if task.known is not None:
        said.append(
            f"Of {task.questions:,} questions {task.known:,} are answered right by the backbone without any context; "
            "“needs memory” leaves them out, so it is zero, or nearly, for no context by definition."
        )
    if STATIC in task.references:
        said.append("Only what a memory gains over the static control, which was trained alike, is memory.")
    elif "shuffled" in task.references:
        said.append(
            "No static control ran. The difference from another item's memory is an upper bound of what is memory: an "
            "adapter comes to rely on a memory of its own, so a stranger's may harm it."
        )
    return " ".join(said) or "No control ran, so these numbers do not tell memory from habit."


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
            columns.append((name, [f"{100 * method.metrics.get(name, 0):.1f}" for method in task.methods]))
    if not columns:
        return []
    rows = [[method.method, *(cells[number] for _, cells in columns)] for number, method in enumerate(task.methods)]
    head = ["method", *(name for name, _ in columns)]
    return [Heading("Averages, categories and other metrics, %", 3), Table(head, rows, _marked(task, controls))]


def _cost_table(task: TaskSummary, controls: frozenset[str]) -> Table:
    head = ["method", "tokens written", "prompt tokens", "new tokens", "s to write", "s to answer", "bytes kept"]
    rows = []
    for method in task.methods:
        cost = method.cost
        counts = [f"{cost[name]:,.0f}" for name in ("write_tokens", "prompt_tokens", "new_tokens")]
        seconds = [f"{cost[name]:.3f}" for name in ("write_seconds", "answer_seconds")]
        rows.append([method.method, *counts, *seconds, f"{cost['stored_bytes']:,.0f}"])
    return Table(head, rows, _marked(task, controls))


def _charts(task: TaskSummary, controls: frozenset[str]) -> list[Block]:
    names = _every(method.categories for method in task.methods)
    categories = {name: {m.method: m.categories[name] for m in task.methods if name in m.categories} for name in names}
    blocks: list[Block] = []
    if categories:
        caption = f"{task.metric} by category, percent, with 95 % intervals. Controls are grey."
        blocks.append(Chart(category_bars(categories, controls), caption))
    points = {m.method: (_tokens(m), m.mean.value) for m in task.methods}
    caption = (
        "Quality against the tokens that pass through the model for a question: its prompt, and the writing of the "
        "whole history before it. No other method is both cheaper and better than those on the line."
    )
    return [*blocks, Chart(pareto(points, controls), caption)]


def _published(task: TaskSummary) -> list[Block]:
    rows = published_for(task.task)
    if not rows:
        return []
    ours = {method.method: method for method in task.methods}
    categories = [category for name, category in rows[0].scores if name == task.task and category]
    table = []
    for row in rows:
        here = ours.get(row.method)
        table.append(
            [
                row.label,
                row.model,
                *(_beside(row.scores.get((task.task, category)), here, category) for category in ("", *categories)),
                _marks(task, row.model) if here else "",
            ]
        )
    head = ["published as", "backbone", "all", *categories, "differs in"]
    said = (
        f"{SOURCE}, in percent; ours follows after the stroke where the method ran. The average is the one the paper "
        "uses; others stand above."
    )
    return [Heading("Beside the published numbers", 3), Paragraph(said), Table(head, table)]


def _beside(published: float | None, ours: MethodSummary | None, category: str) -> str:
    said = "–" if published is None else f"{published:.2f}"
    if ours is None:
        return said
    if not category:
        return f"{said} | {100 * next(iter(ours.averages.values())):.2f}"
    found = ours.categories.get(category)
    return said if found is None else f"{said} | {100 * found.value:.2f}"


def _marks(task: TaskSummary, model: str) -> str:
    differs = []
    if any(name.rstrip("/").rpartition("/")[2] != model for name in task.models):
        differs.append("backbone")
    if task.protocol != PROTOCOL:
        differs.append("protocol")
    return ", ".join(differs)


def _tokens(method: MethodSummary) -> float:
    return method.cost["write_tokens"] + method.cost["prompt_tokens"]


def _marked(task: TaskSummary, controls: frozenset[str]) -> frozenset[int]:
    return frozenset(number for number, method in enumerate(task.methods) if method.method in controls)


def _cell(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.value:.1f}"


def _every(groups: Iterable[Iterable[str]]) -> list[str]:
    """All names, each once, in the order they come."""
    return list(dict.fromkeys(name for group in groups for name in group))
