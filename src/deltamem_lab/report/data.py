"""A summary as plain data for JSON."""

from dataclasses import asdict
from typing import Any

from deltamem_lab.summary import TaskSummary


def as_data(task: TaskSummary) -> dict[str, Any]:
    """Every number of a summary; rates lie in [0, 1], methods are by name."""
    data = asdict(task)
    data["methods"] = {method.pop("method"): method for method in data["methods"]}
    return data
