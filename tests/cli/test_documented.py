"""Every command explains itself, and every command line that the documents show is one that the commands take."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deltamem.cli.main import build_app, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
CODE = re.compile(r"```[a-z]*\n(.*?)```|`(?!`)([^`]+)`", re.DOTALL)
# A command may stand behind a launcher or variables; what follows it for a shell is not its own.
COMMAND = re.compile(r"^(?:\$ )?(?:.*\s-m )?deltamem ((?:[^#|>&;]|(?<=\S)[#>&;](?=\S))*)")


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command and group of commands."""
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)


def documented() -> list[tuple[str, str]]:
    """The arguments of every command line in a code block or between backticks, with the page."""
    found = []
    for page in PAGES:
        for block, inline in CODE.findall(page.read_text("utf-8")):
            # A heading of two columns, as in a table of commands, ends the command.
            lines = re.sub(r"\\\n\s*", " ", block).splitlines() if block else [" ".join(inline.split())]
            for line in lines:
                match = COMMAND.match(line.strip())
                if match and not re.search(r"…|\.\.\.|\s{3,}\S|\[", match[1]):
                    found.append((page.name, match[1].strip()))
    return sorted(set(found))


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(build_app()))), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*path, "--help"])
    assert not left.value.code
    assert "Usage: deltamem " + " ".join(path) in " ".join(capsys.readouterr().out.split())


def test_the_documents_show_commands() -> None:
    shown = {arguments.split()[0] for _, arguments in documented() if arguments}
    assert {"eval", "train", "serve", "report", "sweep", "baseline", "leaderboard", "bench"} <= shown


@pytest.mark.parametrize(("page", "arguments"), documented(), ids=lambda text: text[:60])
def test_a_documented_command_is_taken(page: str, arguments: str) -> None:
    """Options and arguments are as the command has them; nothing is run."""
    command: Any = typer.main.get_command(build_app())
    left = shlex.split(arguments)
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        name = left.pop(0)
        assert name in command.commands, f"{page}: there is no command {name}"
        command = command.commands[name]
    if left and "--help" not in left and not hasattr(command, "commands"):
        try:
            command.make_context(command.name, left)
        except typer.BadParameter as error:
            # Prose may name an option without the arguments that stand beside it.
            if type(error).__name__ != "MissingParameter" or any(not one.startswith("-") for one in left):
                raise
