"""Numbers, names and errors in sentences."""

from collections.abc import Collection


def counted(number: int, noun: str) -> str:
    """So many of something, as in "1 turn" and "1,200 turns"; the noun is the singular of a regular plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def reason(error: BaseException) -> str:
    """What an error says; of one of the system's, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def some(names: Collection[str]) -> str:
    """The first three of some names, and how many more there are."""
    shown = ", ".join(sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
