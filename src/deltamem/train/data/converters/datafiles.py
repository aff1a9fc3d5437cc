"""Rows of published data sets, from the files they come as."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltamem.files import from_json
from deltamem.train.data.lines import BadDataError, file_lines, parse_json

_TEXT = (".txt", ".md")
_KINDS = (".jsonl", ".json", ".csv", *_TEXT)


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Every row of a file, or of the files of a folder, with where it is.

    JSON lines have a row a line. A JSON file is a list of rows, an object with the list under ``data`` (SQuAD), an
    object of rows by id (QASPER), or one row. A CSV file has a header, and a row each. A text file is one row with
    ``id`` and ``text``. Files of JSON may be compressed with gzip. In a folder other files are left alone.

    Raises:
        BadDataError: a file does not exist or cannot be read; the message names the place.
    """
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in _KINDS]
        if not files:
            raise BadDataError(f"{path}: no {_or(_KINDS)} file.")
        for file in files:
            yield from read_rows(file)
        return
    if not path.is_file():
        raise BadDataError(f"{path}: no such file or folder.")
    kind = _kind(path)
    if kind in _TEXT and not path.name.endswith(".gz"):
        yield str(path), {"id": path.name, "text": _decoded(path, path.read_bytes())}
    elif kind == ".jsonl":
        yield from _lines(path)
    elif kind == ".json":
        yield from _whole(path)
    elif kind == ".csv" and not path.name.endswith(".gz"):
        yield from _table(path)
    else:
        raise BadDataError(f"{path}: not a {_or(_KINDS)} file.")


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for line in file_lines(path):
        place = f"{path}:{line.number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise BadDataError(f"{place}: {error}.") from None
        yield place, _of_characters(row, place)


def _whole(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (EOFError, OSError) as error:
        raise BadDataError(f"{path}: cannot be read ({error}).") from None
    try:
        value = from_json(_decoded(path, data))
    except json.JSONDecodeError as error:
        raise BadDataError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}.") from None
    except ValueError as error:
        raise BadDataError(f"{path}: not JSON that can be read: {error}.") from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        by_id = bool(value) and all(isinstance(row, dict) and "title" in row for row in value.values())
        value = [{"id": key, **row} for key, row in value.items()] if by_id else [value]
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        place = f"{path}, row {number}"
        yield place, _of_characters(row, place)


def _of_characters(row: Any, place: str) -> Any:
    """The row, if all its texts are characters: JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.start]
        raise BadDataError(f"{place}: half of a surrogate pair, which is not a character, after {near!r}.") from None
    return row


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(_decoded(path, path.read_bytes()), newline=""), strict=True)
    try:
        for number, row in enumerate(rows, start=1):
            if None in row:
                raise BadDataError(f"{path}, row {number}: it has more fields than the header.")
            yield f"{path}, row {number}", row
    except csv.Error as error:
        raise BadDataError(f"{path}:{rows.line_num}: not CSV: {error}.") from None


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadDataError(f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}.") from None
