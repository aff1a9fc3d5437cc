"""What can be named without importing it: the suites, tasks and methods of this package, which take seconds to import.

What a task or a method is called stands in its own file, and is read from the source.
"""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deltamem.extensions import how_to_install, installed

SUITE_GROUP = "deltamem.suites"
TASK_GROUP = "deltamem.tasks"
METHOD_GROUP = "deltamem.methods"
# It measures by sections of its own, so it is not a Suite.
REAL = "real"
SUITES = ("embedded", "smoke", "paper", REAL)
# What an adapter is called that was given no name.
KINDS = ("token", "segment", "multi")
# The static controls are called this, or this and the adapter that each controls.
STATIC = "static"
# What stands behind the plus of a method that is asked for by an adapter's name.
PARTS = ("context", "replay")


def check_suite(name: str) -> None:
    """Refuses a name that is neither a known suite, of this or an installed package, nor ``module:SUITE``.

    Raises:
        ValueError: there is no such one.
    """
    _check("suite", name, SUITES, SUITE_GROUP, "module:SUITE")


def check_task(name: str, protocol: str = "") -> None:
    """Refuses an unknown protocol, and a name that is neither a known task nor ``module:Class``.

    Raises:
        ValueError: there is no such one.
    """
    known = tasks()
    _check("task", name, known, TASK_GROUP, "module:Class")
    if protocol and name in known and protocol not in known[name]:
        raise ValueError(f"{name} has no protocol {protocol!r}; it has: {', '.join(known[name])}.")


def check_method(name: str, adapters: Collection[str]) -> None:
    """Refuses a name that cannot be a known method's, ``module:Class`` or an adapter's.

    Raises:
        ValueError: there is no such one.
    """
    plain, plus, part = name.partition("+")
    known, kinds = methods()
    adapter = plain in {*adapters, *KINDS, *kinds, STATIC} or plain.startswith(f"{STATIC}-")
    if not (adapter and (not plus or part in PARTS)):
        form = "module:Class, or an adapter's name, alone or with +context or +replay"
        _check("method", name, known, METHOD_GROUP, form, name.partition(":")[0])


def check_harness_tasks(names: Collection[str]) -> None:
    """Refuses what cannot be a task of lm-evaluation-harness, because no file of its tasks has the name.

    Raises:
        ImportError: lm-eval is not installed.
        ValueError: there is no such task.
    """
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"Tasks of lm-evaluation-harness need lm-eval: {how_to_install('harness')}")
    left = {name: re.compile(rb"(?<![\w-])%b(?![\w-])" % re.escape(name.encode())) for name in names}
    files = (path for path in Path(found.submodule_search_locations[0], "tasks").rglob("*") if path.is_file())
    for file in (path for path in files if path.suffix not in (".py", ".pyc", ".md")):
        text = file.read_bytes()
        left = {name: pattern for name, pattern in left.items() if not pattern.search(text)}
        if not left:
            return
    raise ValueError(f"lm-evaluation-harness has no task {', '.join(sorted(left))}; `lm-eval ls tasks` lists them.")


def tasks() -> dict[str, tuple[str, ...]]:
    """The names of the classes that ``tasks/`` decorates with ``@task``, each with its protocols."""
    found = {}
    for module, constants in _sources("tasks"):
        for made in module.body:
            if isinstance(made, ast.ClassDef) and any(_called(one) == "task" for one in made.decorator_list):
                said = {ast.unparse(one.targets[0]): one.value for one in made.body if isinstance(one, ast.Assign)}
                found[_value(said["name"], constants)] = _value(said["protocols"], constants)
    return dict(sorted(found.items()))


def methods() -> tuple[list[str], list[str]]:
    """The names that ``methods/`` gives with ``@method``, and those of the weights that are trained for them."""
    names: dict[str, list[str]] = {"method": [], "Weights": []}
    for module, constants in _sources("methods"):
        for made in ast.walk(module):
            if isinstance(made, ast.Call) and _called(made.func) in names and made.args:
                names[_called(made.func)].append(_value(made.args[0], constants))
    return names["method"], names["Weights"]


def _sources(folder: str) -> Iterator[tuple[ast.Module, Mapping[str, Any]]]:
    """The files of a folder of this package, each with its constants."""
    for file in sorted((Path(__file__).parent / folder).rglob("*.py")):
        module = ast.parse(file.read_text("utf-8"))
        told = [one for one in module.body if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant)]
        yield module, {ast.unparse(one.targets[0]): ast.literal_eval(one.value) for one in told}


def _called(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """A text, or a tuple of texts, some of them by the name of a constant."""
    if isinstance(node, ast.Tuple):
        return tuple(_value(one, constants) for one in node.elts)
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _check(kind: str, name: str, own: Collection[str], group: str, form: str, plain: str = "") -> None:
    if (plain or name) not in {*own, *installed(group)} and ":" not in name:
        known = ", ".join([*own, *installed(group)])
        raise ValueError(f"There is no {kind} {name!r}; there are: {known}, and {form}.")
