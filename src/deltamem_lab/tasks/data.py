"""Where a benchmark's rows come from: a file, or a data set on the Hub at a given revision."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem.extensions import from_extra
from deltamem.train.data.converters.datafiles import read_rows as read_rows
from deltamem.train.data.converters.example import need as need
from deltamem.train.data.lines import BadDataError as BadDataError
from deltamem_lab.interface import Decoding, Item, PublishedSize, Question


@dataclass(frozen=True)
class HubData:
    """A data set on the Hub.

    Attributes:
        name: its id.
        files: the paths of its files to read, in order.
    """

    name: str
    files: tuple[str, ...]


Row = tuple[str, dict[str, Any]]


def items_from(rows: Iterable[Row], make: Callable[[dict[str, Any]], Item], what: str) -> list[Item]:
    """The item that ``make`` gives for each row.

    Raises:
        BadDataError: a row is not what it should be; the message says what that is, and names the row.
    """
    items = []
    for place, row in rows:
        try:
            items.append(make(row))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadDataError(f"{place} is not {what}: {error}.") from error
    return items


class FromFile:
    """What benchmarks share whose items are those of a file: no settings beside data and protocol, greedy answers."""

    settings: Mapping[str, str] = {}
    size: PublishedSize
    _items: list[Item]

    def items(self, protocol: str, limit: int | None = None) -> Iterator[Item]:
        """The items in the data's order."""
        yield from self._items[:limit]

    def decoding(self, item: Item, question: Question, protocol: str) -> Decoding:
        """Greedy, as many tokens as the published answers have at most."""
        return Decoding(self.size.new)


def rows_from(data: Path | None, hub: HubData, revision: str | None) -> tuple[list[Row], str]:
    """The rows of a file if one is given, else of the Hub.

    A file is JSON, JSON lines (either may be compressed with gzip) or Parquet; a folder is all its files.

    Returns:
        each row with its place, which is the file and number; and what a record says of the data: the Hub id and
        revision, or the file and its SHA-256.

    Raises:
        BadDataError: the data cannot be read, or a row is not an object; the message names the file and the row.
        ImportError: Parquet needs ``pyarrow``, which is not installed.
        ValueError: a file and a revision are given.
    """
    if data is not None and revision is not None:
        raise ValueError("Only data on the Hub has a revision. Give a file or a revision, not both.")
    if data is not None:
        found, said = list(_file_rows(data)), digest(data)
    else:
        files = [hub_file(hub.name, file, revision) for file in hub.files]
        found = [row for file in files for row in _file_rows(file)]
        said = hub_revision(hub.name, files[0], revision)
    for place, row in found:
        if not isinstance(row, dict):
            raise BadDataError(f"{place}: a row must be an object, not {type(row).__name__}.")
    if not found:
        raise BadDataError(f"{data or hub.name} has no rows.")
    return found, said


def hub_file(name: str, file: str, revision: str | None) -> Path:
    """A file of a data set on the Hub, from the cache if it is there.

    Raises:
        BadDataError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadDataError(f"Cannot load {file} of {name} from the Hub; pass a file with --data. {reason}") from error


def hub_revision(name: str, file: Path, asked: str | None) -> str:
    """What a record says of a data set: its id, the commit of a downloaded file, and whether nobody asked for it."""
    # The Hub's cache has the commit as the name of a folder.
    commit = file.parts[file.parts.index("snapshots") + 1] if "snapshots" in file.parts else "unknown"
    return f"{name}@{commit}{'' if asked else ' (unpinned)'}"


def texts(row: dict[str, Any], name: str) -> list[str]:
    """A field that is a list of texts.

    Raises:
        ValueError: the row has no such field, or something in it is not text.
    """
    values = need(row, name, list)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name!r} must be a list of texts")
    return list(values)


def digest(path: Path) -> str:
    """The name of a file or folder, and the SHA-256 of what the file holds, or all files of the folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return f"{path.name}@sha256:{total.hexdigest()}"


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        for file in sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")):
            yield from _file_rows(file)
    elif path.suffix == ".parquet":
        with from_extra("eval", "Parquet files need pyarrow"):
            import pyarrow
            from pyarrow import parquet
        try:
            rows = parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise BadDataError(f"{path}: cannot be read ({error}).") from None
        # The benchmark's files name their split, their rows do not.
        split = path.name.split("-")[0]
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", {"split": split, **row}
    else:
        yield from read_rows(path)
