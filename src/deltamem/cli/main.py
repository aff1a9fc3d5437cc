"""The ``deltamem`` command: collects the commands, and turns any error into one line."""

import importlib
import sys
from typing import Annotated

import typer

# A command's module is light to import: what is heavy it imports when it runs.
COMMANDS = (
    "demo",
    "chat",
    "inspect",
    "convert",
    "data",
    "train",
    "sweep",
    "baseline",
    "eval",
    "report",
    "bench",
    "leaderboard",
    "parity",
    "serve",
    "keys",
    "store",
    "doctor",
)


def build_app() -> typer.Typer:
    """The application with every command in :data:`COMMANDS`."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"deltamem.cli.{name}"), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and exits: 0 when all is well, 1 on an error, 2 on wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    app = build_app()
    try:
        app(args=[argument for argument in given if argument != "--debug"], prog_name="deltamem")
    except Exception as error:
        if "--debug" in given:
            raise
        print(f"deltamem: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        from deltamem.version import __version__

        print(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show where it came from.")] = False,
) -> None:
    """A small memory for a frozen language model: written while it reads, kept when the text is gone.

    Each command explains itself: deltamem COMMAND --help.
    """


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # A message of our own or of the system explains itself; any other needs to say what it is.
    if isinstance(error, (ValueError, OSError, ImportError)) and text:
        return text
    return f"{type(error).__name__}: {text} (run again with --debug to see where)"


if __name__ == "__main__":
    main()
