"""Prints docs/cli.md, made from the help of every command: ``python docs/_build/commands.py > docs/cli.md``."""

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from deltamem.cli.main import build_app


def commands_page() -> str:
    """The page, in Markdown."""
    command = get_command(build_app())
    page = get_docs_for_click(
        obj=command, ctx=typer.Context(command, info_name="deltamem"), name="deltamem", title="Commands"
    )
    return "\n".join(line.rstrip() for line in page.strip().splitlines()) + "\n"


if __name__ == "__main__":
    print(commands_page(), end="")
