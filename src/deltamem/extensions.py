"""What is installed beside the product: extras, entry points of other packages, what ``module:attribute`` names."""

import importlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname


class Named(Protocol):
    """What a :class:`Table` holds."""

    @property
    def name(self) -> str:
        """By which it is found."""


Row = TypeVar("Row", bound=Named)


class Table(Generic[Row]):
    """Rows by name: our own, those that a program adds, and those that installed packages declare.

    Args:
        group: the group of the entry points; each names a row.
        rows: our own.
    """

    def __init__(self, group: str, rows: Iterable[Row]) -> None:
        self._group = group
        self._rows = {row.name: row for row in rows}

    def add(self, row: Row) -> None:
        """Adds a row, in place of one with its name."""
        self._rows[row.name] = row

    def drop(self, name: str) -> None:
        """Takes away a row, if there is one of this name."""
        self._rows.pop(name, None)

    def find(self, name: str) -> Row | None:
        """The row of a name, if there is one. Entry points are looked at where nothing else has the name."""
        if name not in self._rows and name in self._declared:
            self.add(self._declared[name].load())
        return self._rows.get(name)

    def __getitem__(self, name: str) -> Row:
        row = self.find(name)
        if row is None:
            raise KeyError(name)
        return row

    def names(self) -> list[str]:
        """All names that can be found, ours first."""
        return list(dict.fromkeys([*self._rows, *sorted(self._declared)]))

    @cached_property
    def _declared(self) -> dict[str, EntryPoint]:
        return installed(self._group)


def how_to_install(extra: str) -> str:
    """The command that brings an extra to the deltamem that is running, wherever that was installed from."""
    try:
        origin = json.loads(distribution("deltamem").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # it runs from a folder
        origin = {}
    url = urlsplit(origin.get("url", ""))
    source = url2pathname(url.path) if url.scheme == "file" else "deltamem"
    editable = "--editable " if origin.get("dir_info", {}).get("editable") else ""
    return f'pip install {editable}"{source}[{extra}]"'


@contextmanager
def from_extra(extra: str, told: str) -> Iterator[None]:
    """Says how to install what the imports within the block do not find.

    Args:
        extra: the extra that brings it.
        told: what needs what, as "Retrieval needs bm25s"; ``{}`` stands for the module that is missing.

    Raises:
        ImportError: something is missing.
    """
    try:
        yield
    except ImportError as missing:
        raise ImportError(f"{told.format(missing.name)}: {how_to_install(extra)}") from None


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; of two with one name, the first that Python finds."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, entry)
    return found


def load_named(name: str, group: str) -> Any:
    """What an installed package declares by that name in a group, or what ``module:attribute`` names; else ``None``.

    Raises:
        ValueError: there is no such module or attribute.
    """
    declared = installed(group)
    if name in declared:
        return declared[name].load()
    return load_object(name) if ":" in name else None


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
