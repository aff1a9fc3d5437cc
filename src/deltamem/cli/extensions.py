"""The commands that installed packages add, and what stands in their place where they are not there."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any, NoReturn

import typer

from deltamem.extensions import how_to_install, installed

COMMANDS = "deltamem.commands"
SIZING = "deltamem.sizing"

# Commands of the laboratory, which comes with the package, and the extra that each needs.
EXTRAS = {
    "sweep": "train",
    "baseline": "train",
    "eval": "eval",
    "report": "eval",
    "bench": "lora",
    "leaderboard": "eval",
}


def add(app: typer.Typer, name: str, command: Callable[..., Any] | typer.Typer) -> None:
    """Adds a command or a group of commands."""
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


def add_command(app: typer.Typer, name: str, entry: EntryPoint | None) -> None:
    """Adds a command of another package, or one that says what to install if there is none that can be imported."""
    if entry is None:
        _add_lacking(app, name, "is not installed")
        return
    try:
        command = entry.load()
    except ImportError as error:
        _add_lacking(app, name, f"cannot be loaded ({error})")
    else:
        add(app, name, command)


def find_sizing() -> Callable[[Any], Any]:
    """What finds the size of an adapter for ``deltamem train --auto-size``: from a recipe, one with the size.

    Raises:
        ImportError: no package adds it.
    """
    for entry in installed(SIZING).values():
        found: Callable[[Any], Any] = entry.load()
        return found
    raise ImportError(f"--auto-size is not installed: {how_to_install('train')}")


def _add_lacking(app: typer.Typer, name: str, why: str) -> None:
    def command() -> NoReturn:
        advice = how_to_install(EXTRAS[name]) if name in EXTRAS else "install the package that adds it again"
        raise ImportError(f"deltamem {name} {why}: {advice}")

    told = f"Not available: deltamem {name} {why}.\n\nExample: deltamem {name}"
    any_arguments = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=told, context_settings=any_arguments)(command)
