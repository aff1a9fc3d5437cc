"""What can be named without importing it: the suites and tasks of this package, which take seconds to import.

A test holds the lists to what there is.
"""

from collections.abc import Sequence

from deltamem.extensions import installed

SUITE_GROUP = "deltamem.suites"
TASK_GROUP = "deltamem.tasks"
# It measures by sections of its own, so it is no Suite.
REAL = "real"
SUITES = ("embedded", "smoke", "paper", REAL)
TASKS = ("gpqa", "hotpotqa", "ifeval", "locomo", "longmemeval", "memoryagentbench", "world")


def check_suite(name: str) -> None:
    """Refuses what is no suite of this package, of an installed one or ``module:SUITE``.

    Raises:
        ValueError: it is none.
    """
    _check("suite", name, SUITES, SUITE_GROUP, "module:SUITE")


def check_task(name: str) -> None:
    """Refuses what is no task of this package, of an installed one or ``module:Class``.

    Raises:
        ValueError: it is none.
    """
    _check("task", name, TASKS, TASK_GROUP, "module:Class")


def _check(kind: str, name: str, own: Sequence[str], group: str, form: str) -> None:
    if name not in own and name not in installed(group) and ":" not in name:
        known = ", ".join([*own, *installed(group)])
        raise ValueError(f"There is no {kind} {name!r}; there are: {known}, and {form}.")
