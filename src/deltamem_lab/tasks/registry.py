"""The benchmarks by name: those of this folder, those of other packages, and any class as ``module:Class``.

A benchmark is a class that is decorated with :func:`task` in a module of this folder; nothing else lists it. Another
package names its class in the entry-point group ``deltamem.tasks``, or the command line names it.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from deltamem.extensions import load_named
from deltamem_lab.interface import Task
from deltamem_lab.names import TASK_GROUP, check_task
from deltamem_lab.tasks.options import task_options

Made = TypeVar("Made", bound=type[Any])
_NEEDED = ("name", "protocols", "main_metric", "averages", "items", "prompt", "decoding", "score")

_registered: dict[str, type[Any]] = {}


def task(made: Made) -> Made:
    """Makes a class the benchmark of its ``name``.

    Raises:
        ValueError: another class has the name.
    """
    if made.name in _registered:
        raise ValueError(f"{made.__qualname__} and {_registered[made.name].__qualname__} are both named {made.name!r}.")
    _registered[made.name] = made
    return made


@cache
def own_tasks() -> Mapping[str, type[Any]]:
    """The benchmarks of this folder by name."""
    package = importlib.import_module("deltamem_lab.tasks")
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)
    return {name: one for name, one in sorted(_registered.items()) if one.__module__.startswith(f"{package.__name__}.")}


def find_task(name: str) -> type[Any]:
    """The class of a benchmark, by its name or as ``module:Class``, which is imported.

    Raises:
        ValueError: there is no such class, or it is not a benchmark.
    """
    own = own_tasks()
    if name in own:
        return own[name]
    check_task(name)
    made: Any = load_named(name, TASK_GROUP)
    lacking = [one for one in _NEEDED if not hasattr(made, one)]
    if not isinstance(made, type) or lacking:
        raise ValueError(f"{name} is not a task: its class needs {', '.join(lacking or _NEEDED)}.")
    return made


def build_task(
    name: str,
    data: Path | None = None,
    *,
    revision: str | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """A benchmark by its name.

    Raises:
        ValueError: there is no such benchmark, or what was given does not fit it.
    """
    make: Callable[..., Task] = find_task(name)
    known = inspect.signature(make).parameters
    given: dict[str, Any] = {"data": data}
    if "seed" in known:
        given["seed"] = seed
    if revision is not None:
        if "revision" not in known:
            raise ValueError(f"The task {name!r} makes its own data, which has no revision; leave --revision out.")
        given["revision"] = revision
    return make(**given, **task_options(make, options or {}))


def pick_protocol(of: Task | type[Any], wanted: str = "") -> str:
    """The protocol of that name, or a benchmark's first.

    Raises:
        ValueError: it has no such protocol.
    """
    if wanted and wanted not in of.protocols:
        raise ValueError(f"{of.name} has no protocol {wanted!r}; it has: {', '.join(of.protocols)}.")
    return wanted or of.protocols[0]
