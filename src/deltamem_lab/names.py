"""What can be named without importing it: the suites and tasks of this package, which take seconds to import."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from deltamem.extensions import installed

SUITE_GROUP = "deltamem.suites"
TASK_GROUP = "deltamem.tasks"
# It measures by sections of its own, so it is no Suite.
REAL = "real"
SUITES = ("embedded", "smoke", "paper", REAL)


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
    _check("task", name, tasks(), TASK_GROUP, "module:Class")


def tasks() -> tuple[str, ...]:
    """The names of the classes that ``tasks/`` decorates with ``@task``, read from the source."""
    files = (Path(__file__).parent / "tasks").glob("*.py")
    return tuple(sorted(name for file in files for name in _names(ast.parse(file.read_text("utf-8")))))


def _names(module: ast.Module) -> Iterator[str]:
    for made in module.body:
        if isinstance(made, ast.ClassDef) and any(
            isinstance(d, ast.Name) and d.id == "task" for d in made.decorator_list
        ):
            for line in made.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "name":
                    yield ast.literal_eval(line.value)


def _check(kind: str, name: str, own: Sequence[str], group: str, form: str) -> None:
    if name not in own and name not in installed(group) and ":" not in name:
        known = ", ".join([*own, *installed(group)])
        raise ValueError(f"There is no {kind} {name!r}; there are: {known}, and {form}.")
