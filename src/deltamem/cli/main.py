"""The ``deltamem`` command: collects the commands, and turns any error or warning into one line."""

import importlib
import inspect
import logging
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from deltamem.cli import extensions
from deltamem.extensions import installed
from deltamem.wording import reason

# In the order of the help. A command's module is light to import: what is heavy it imports when it runs.
COMMANDS = (
    "demo",
    "chat",
    "ask",
    "pull",
    "init",
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
    "mcp",
    "memories",
    "keys",
    "webhooks",
    "store",
    "doctor",
)


# Wrong usage, for typer; where the class itself lives depends on the version.
_UsageError = typer.BadParameter.__mro__[1]


def build_app() -> typer.Typer:
    """The application with every command in :data:`COMMANDS`, and what other packages add."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    added = installed(extensions.COMMANDS)
    for name in COMMANDS:
        if name in extensions.EXTRAS:
            extensions.add_command(app, name, added.get(name))
        else:
            extensions.add(app, name, getattr(importlib.import_module(f"deltamem.cli.{name}"), name))
    for name in sorted(added.keys() - set(COMMANDS)):
        extensions.add_command(app, name, added[name])
    _unwrap_help(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and exits: 0 when all is well, 1 on an error, 2 on wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    app = build_app()
    for library in ("torchao", "torch.utils._pytree"):  # they tell of themselves when they are imported
        logging.getLogger(library).setLevel(logging.ERROR)
    if "--debug" not in given:
        warnings.formatwarning = _warning_line
    try:
        code = app(
            args=[argument for argument in given if argument != "--debug"],
            prog_name="deltamem",
            standalone_mode=False,
            auto_envvar_prefix="DELTAMEM",  # DELTAMEM_SERVE_PORT for deltamem serve --port
        )
    except Exception as error:
        if isinstance(error, _UsageError):
            _fail(_usage_line(error), 2)
        if "--debug" in given:
            raise
        _fail(_one_line(error), 1)
    sys.exit(code if isinstance(code, int) else 0)


def _unwrap_help(app: typer.Typer) -> None:
    """Joins the lines of each paragraph of help: typer keeps the source's line breaks in all but the first."""
    for command in app.registered_commands:
        text = inspect.cleandoc(command.help or getattr(command.callback, "__doc__", None) or "")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _unwrap_help(group.typer_instance)


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning without the place in the source that gave it."""
    return f"Warning: {message}\n"


def _print_version(asked: bool) -> None:
    if asked:
        from deltamem.version import __version__

        print(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
            allow_from_autoenv=False,  # DELTAMEM_VERSION is what an image may well set
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show its traceback.")] = False,
) -> None:
    """A small memory for a frozen language model: written while it reads, kept when the text is gone.

    Each command explains itself: deltamem COMMAND --help.
    """


def _fail(line: str, code: int) -> NoReturn:
    if line:
        print(f"deltamem: {line}", file=sys.stderr)
    sys.exit(code)


def _usage_line(error: Any) -> str:
    """What is wrong and where to read on; nothing for a command without arguments, which has printed its help."""
    text = " ".join(error.format_message().replace("Value error, ", "").split())
    if not text or not error.ctx:
        return text
    return f"{text} ({_by_environment(error)}{error.ctx.command_path} --help)"


def _by_environment(error: Any) -> str:
    """The variable that gave an option its value, as words before others; empty where the command line gave it."""
    parameter = getattr(error, "param", None)
    if parameter is None or getattr(error.ctx.get_parameter_source(parameter.name), "name", "") != "ENVIRONMENT":
        return ""
    return f"set by {parameter.envvar or f'{error.ctx.auto_envvar_prefix}_{parameter.name.upper()}'}; "


def _one_line(error: Exception) -> str:
    text = " ".join(reason(error).split())
    if isinstance(error, typer.Abort):
        return "Aborted."
    # A message of our own or of the system explains itself; any other needs to say what it is.
    if isinstance(error, (ValueError, OSError, ImportError)) and text:
        return text
    return f"{type(error).__name__}: {text} (run again with --debug to see where)"


if __name__ == "__main__":
    main()
