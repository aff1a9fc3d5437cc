"""What a question costs each method, and what that buys."""

from deltamem_lab.report.blocks import Block, Chart, Heading, Paragraph, Table
from deltamem_lab.report.charts import pareto
from deltamem_lab.summary import MethodSummary, TaskSummary

# Methods whose written tokens go through another, smaller model than the backbone, in part or all.
_OTHER_MODELS = frozenset({"dense", "memorybank", "memorybank_code", "memorybank_keep", "compression", "llmlingua2"})
_MIB = 2**20


def costs(task: TaskSummary, controls: frozenset[str]) -> list[Block]:
    """A table of costs, and a drawing of quality against tokens; nothing where they are not known (the harness)."""
    if not any(any(method.cost.values()) for method in task.methods):
        return []
    measured = any(method.cost["peak_bytes"] for method in task.methods)
    head = ["method", "tokens written", "prompt tokens", "new tokens", "s to write", "s to answer", "bytes kept"]
    rows = [_row(method, measured) for method in task.methods]
    said = (
        "Means over questions, each as if it were asked alone: the tokens that were read beforehand to keep the "
        "history, those of the prompt and of the answer; the seconds these took, less where prompts begin alike; and "
        "the bytes kept of the history between turns. The weights of what was trained are not counted."
    )
    if measured:
        said += " Peak memory is what was held at most in reading or answering, beyond what was held before."
    points = {
        _starred(m.method): (m.cost["write_tokens"] + m.cost["prompt_tokens"], m.mean.value) for m in task.methods
    }
    caption = (
        "Quality against the tokens that are read for a question asked alone: its prompt, and the writing of the whole "
        "history before it. No other method is both cheaper and better than those on the line. Controls are grey."
    )
    if any(name.endswith("*") for name in points):
        caption += " * Some or all of what is written goes through a smaller encoder or classifier, not the backbone."
    return [
        Heading("What a question costs", 3),
        Paragraph(said),
        Table([*head, *(["peak memory, MiB"] if measured else [])], rows, marked(task, controls)),
        Chart(pareto(points, frozenset(map(_starred, controls))), caption),
    ]


def _row(method: MethodSummary, measured: bool) -> list[str]:
    cost = method.cost
    counts = [f"{cost[name]:,.0f}" for name in ("write_tokens", "prompt_tokens", "new_tokens")]
    seconds = [f"{cost[name]:.3f}" for name in ("write_seconds", "answer_seconds")]
    peak = [f"{cost['peak_bytes'] / _MIB:,.1f}"] if measured else []
    return [method.method, *counts, *seconds, f"{cost['stored_bytes']:,.0f}", *peak]


def _starred(method: str) -> str:
    return f"{method}*" if method in _OTHER_MODELS else method


def marked(task: TaskSummary, controls: frozenset[str]) -> frozenset[int]:
    """The rows of a task's methods that are controls."""
    return frozenset(number for number, method in enumerate(task.methods) if method.method in controls)
