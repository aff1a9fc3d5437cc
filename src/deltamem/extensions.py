"""What other packages add: by the entry points that they declare, or by name as ``module:attribute``."""

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; of two with one name, the first that Python finds."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, entry)
    return found


def load_object(where: str) -> Any:
    """What ``module:attribute`` names. The module is imported, so name only what you trust.

    Raises:
        ValueError: there is no such module or attribute. What the module itself raises is left as it is.
    """
    module, _, attribute = where.partition(":")
    advice = "Give module:name of an installed package, or put its folder on PYTHONPATH."
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ValueError(f"{where!r} names nothing. {advice}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is missing inside of the one that was named is a fault of its own.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"There is no {where}: {error}. {advice}") from None
    if not hasattr(found, attribute):
        raise ValueError(f"There is no {where}: {module} has no {attribute}. {advice}")
    return getattr(found, attribute)
