"""What is worth telling of a run beside its records: the commands that made it, and the methods it left out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deltamem.files import write_json

NOTES_FILE = "notes.json"


@dataclass(frozen=True)
class Notes:
    """What a report says of a run."""

    commands: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


def read_notes(folder: Path) -> Notes:
    """The notes of a run; empty ones if it has none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / NOTES_FILE
    if not path.is_file():
        return Notes()
    try:
        found = json.loads(path.read_text("utf-8"))
        return Notes(tuple(map(str, found["commands"])), {str(name): str(why) for name, why in found["absent"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; remove it, and run the evaluation again to have it written.") from None


def join_notes(several: Iterable[Notes]) -> Notes:
    """The notes of several runs as those of one."""
    every = list(several)
    commands = dict.fromkeys(command for notes in every for command in notes.commands)
    return Notes(tuple(commands), {name: why for notes in every for name, why in notes.absent.items()})


def add_notes(folder: Path, command: str, absent: Mapping[str, str], ran: tuple[str, ...]) -> None:
    """Adds a command to a run's notes, what it left out, and takes off that list what it ran."""
    joined = join_notes((read_notes(folder), Notes((command,), absent)))
    notes = asdict(replace(joined, absent={name: why for name, why in joined.absent.items() if name not in ran}))
    write_json(folder / NOTES_FILE, notes, ensure_ascii=False)
