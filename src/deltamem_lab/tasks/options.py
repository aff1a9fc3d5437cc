"""What a task can be told beside its data: texts from the command line, or values from a recipe."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from deltamem_lab.metrics.judge import Judge

_GENERAL = ("data", "revision", "seed")
_JUDGE = ("judge", "judge_url", "judge_key")


def task_options(build: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments for what makes a task: what is given, as its parameters are annotated.

    Args:
        build: the task's class. A parameter can be a path, a number, a text, or a collection of numbers or texts, which
            is a list or a text with commas; a :class:`Judge` takes ``judge`` (a model's name), ``judge_url`` and
            ``judge_key`` (the name of the variable with the key).
        options: texts or values by name.

    Raises:
        ValueError: the task has no such option, or a value does not fit it.
    """
    known = known_options(build)
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"This task has no option {', '.join(unknown)}; its options: {', '.join(sorted(known)) or 'none'}."
        )
    kinds = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    parsed = {name: _parsed(name, text, kinds.get(name, str)) for name, text in options.items() if name not in _JUDGE}
    if judge := _judge(options):
        parsed["judge"] = judge
    return parsed


def known_options(build: Callable[..., Any]) -> set[str]:
    """The names of a task's options."""
    known = set(inspect.signature(build).parameters) - set(_GENERAL)
    return known | set(_JUDGE) if "judge" in known else known


def _judge(options: Mapping[str, Any]) -> Judge | None:
    if "judge" in options:
        return Judge(options["judge"], options.get("judge_url"), options.get("judge_key", "OPENAI_API_KEY"))
    if given := sorted(set(options) & set(_JUDGE)):
        raise ValueError(f"{', '.join(given)} needs judge too, the name of the judge's model.")
    return None


def _parsed(name: str, given: Any, wanted: Any) -> Any:
    if get_origin(wanted) in (Union, UnionType):
        wanted = next(one for one in get_args(wanted) if one is not NoneType)
    try:
        if wanted in (Path, int, float, str):
            return wanted(given)
        kind = next((one for one in get_args(wanted) if one in (int, float)), str)
        parts = given if isinstance(given, (list, tuple)) else [part for part in str(given).split(",") if part.strip()]
        return tuple(kind(str(part).strip()) for part in parts)
    except (ValueError, TypeError):
        raise ValueError(
            f"{name} must be a number, or numbers between commas where it takes several, not {given!r}."
        ) from None
