"""What a task can be told beside its data, as texts from the command line."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deltamem_lab.metrics.judge import Judge

_GENERAL = ("data", "revision", "seed")
_FILES = ("audit", "movies")
_JUDGE = ("judge", "judge_url", "judge_key")


def task_options(build: Callable[..., Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The keyword arguments for what makes a task.

    Args:
        build: the task's class.
        options: ``categories`` ("1,2,3,4,5") and ``audit`` (a file) for LoCoMo; ``sources`` ("icl,ruler") and
            ``movies`` (a file) for MemoryAgentBench; ``judge`` (a model's name), ``judge_url`` and ``judge_key`` (the
            name of the variable with the key) for the latter and LongMemEval.

    Raises:
        ValueError: the task has no such option, or one is no such value.
    """
    known = known_options(build)
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"This task has no option {', '.join(unknown)}; its options: {', '.join(sorted(known)) or 'none'}."
        )
    parsed = {name: _parsed(name, text) for name, text in options.items() if name not in _JUDGE}
    if judge := _judge(options):
        parsed["judge"] = judge
    return parsed


def known_options(build: Callable[..., Any]) -> set[str]:
    """The names of a task's options."""
    known = set(inspect.signature(build).parameters) - set(_GENERAL)
    return known | set(_JUDGE) if "judge" in known else known


def _judge(options: Mapping[str, str]) -> Judge | None:
    if "judge" in options:
        return Judge(options["judge"], options.get("judge_url"), options.get("judge_key", "OPENAI_API_KEY"))
    if given := sorted(set(options) & set(_JUDGE)):
        raise ValueError(f"{', '.join(given)} without judge, the name of the judge's model.")
    return None


def _parsed(name: str, text: str) -> Any:
    if name in _FILES:
        return Path(text)
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if name != "categories":
        return parts
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"categories are numbers between commas, not {text!r}.")
    return tuple(int(part) for part in parts)
