"""Lines of chat data: read from files or the Hub, checked, and named by file and number when they are bad."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem.chat import Message
from deltamem.chat.tokens import only_calls
from deltamem.extensions import from_extra
from deltamem.files import write_atomically
from deltamem.train.data.options import DataOptions

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Who may speak in a line of training data."""

_SUFFIXES = (".jsonl", ".jsonl.gz")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawLine:
    """A line as it was found.

    Attributes:
        source: the file, or the Hub dataset.
        number: the line's number, from 1.
        data: its bytes, without the line's end.
        damage: why the source could not be read any further, if that is so.
    """

    source: str
    number: int
    data: bytes
    damage: str = ""


@dataclass(frozen=True)
class BadLine:
    """A line that gives no episode, or not all of its episodes.

    Attributes:
        source: the file, or the Hub dataset.
        number: the line's number, from 1.
        reason: what is wrong with it.
    """

    source: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.number}: {self.reason}"


class BadDataError(ValueError):
    """Training data that cannot be used; the message names the file and the line."""


def find_files(path: str | Path) -> list[Path]:
    """The data files that a file, folder or glob pattern stands for, in order of their names.

    Raises:
        BadDataError: there is none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [p for p in sorted(place.rglob("*")) if p.name.endswith(_SUFFIXES) and p.is_file()]
    else:
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True)) if Path(name).is_file()]
    if not found:
        wanted = f"no file that ends in {' or '.join(_SUFFIXES)}" if place.is_dir() else "no such file"
        raise BadDataError(f"{path}: {wanted}.")
    return found


def raw_lines(options: DataOptions) -> Iterator[RawLine]:
    """Every line of the source that is not blank.

    Raises:
        BadDataError: there is no such source.
        ImportError: a Hub dataset needs ``datasets``, which is not installed.
    """
    if options.path is None:
        yield from _hub_lines(options)
        return
    for file in find_files(options.path):
        yield from file_lines(file)


def file_lines(file: Path) -> Iterator[RawLine]:
    """Every line of one file that is not blank; a file that breaks off ends with a damaged line."""
    number = 0
    with gzip.open(file) if file.name.endswith(".gz") else open(file, "rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                data = line.removeprefix(_BOM) if number == 1 else line
                if data.strip():
                    yield RawLine(str(file), number, data.rstrip(b"\r\n"))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            yield RawLine(str(file), number + 1, b"", f"the compressed file is damaged from here on ({error})")


def write_lines(target: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes a ``.jsonl`` or ``.jsonl.gz`` file, all of it or nothing; the same rows give the same file.

    Returns:
        How many lines there are.

    Raises:
        ValueError: the file's name has another ending.
    """
    check_target(target)
    lines = [f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows]
    data = "".join(lines).encode(errors="replace")
    write_atomically(target, gzip.compress(data, mtime=0) if target.name.endswith(".gz") else data)
    return len(lines)


def check_target(target: Path) -> None:
    """Asks for the name of a file of lines that is to be written.

    Raises:
        ValueError: it has another ending.
    """
    if not target.name.endswith(_SUFFIXES):
        raise ValueError(f"{target} must end in {' or '.join(_SUFFIXES)}.")


def parse_json(line: RawLine) -> Any:
    """The JSON value of a line.

    Raises:
        ValueError: it has none; the message gives the place, not the file and line.
    """
    if line.damage:
        raise ValueError(line.damage)
    try:
        return json.loads(line.data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{line.data[error.start]:02x} at column {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not usable: its JSON is nested too deeply") from None


def parse_messages(line: RawLine) -> list[Message]:
    """The conversation of a line: messages with a role and a text, at least one of them the assistant's.

    Raises:
        ValueError: the line has none; the message says what is wrong, not the file and line.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"a line must be an object, not {_kind(row)}")
    if row.get("messages") is not None:
        messages = read_messages(row["messages"], "messages")
    elif row.get("prompt") is not None and row.get("response") is not None:
        prompt = row["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        response = {"role": "assistant", "content": _text(row["response"], "response")}
        messages = [*read_messages(turns, "prompt"), response]
    else:
        keys = ", ".join(map(repr, row)) or "nothing"
        raise ValueError(f"a line needs 'messages', or 'prompt' and 'response'; this one has {keys}")
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise ValueError("there is no assistant message with a text to learn from")
    return messages


def read_messages(value: Any, where: str) -> list[Message]:
    """Messages with a role and a text each. An assistant's that only calls tools may have none, which is empty then.

    Raises:
        ValueError: they are something else; the message says what is wrong with which of ``where``.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} must be a list of messages, not {_kind(value)}")
    result: list[Message] = []
    for number, item in enumerate(value, start=1):
        place = f"{where}, message {number}"
        if not isinstance(item, dict):
            raise ValueError(f"{place}: must be an object with role and content, not {_kind(item)}")
        role = item.get("role")
        if role not in ROLES:  # a template writes any role down, and training would learn from it
            said = repr(role) if isinstance(role, str) else _kind(role)
            raise ValueError(f"{place}: role must be one of {', '.join(ROLES)}, not {said}")
        content = "" if only_calls(item) else _text(item.get("content"), place)
        result.append({"role": role, "content": content})
    return result


def _text(content: Any, where: str) -> str:
    """The text of a message's content: a string, or a list of parts that are texts."""
    if isinstance(content, list):
        parts = []
        for part in content:
            text = part.get("text") if isinstance(part, dict) else part
            if not isinstance(text, str):
                kind = part.get("type") if isinstance(part, dict) else None
                raise ValueError(f"{where}: only text can be learned from, not a part of type {kind!r}")
            parts.append(text)
        content = "".join(parts)
    if not isinstance(content, str):
        raise ValueError(f"{where}: content must be a text or a list of text parts, not {_kind(content)}")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start + 1} is half of a surrogate pair, which is not text"
        ) from None
    return content


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    if value in ("", [], {}):
        return "an empty one"
    return names.get(type(value), "a number")


def _hub_lines(options: DataOptions) -> Iterator[RawLine]:
    with from_extra("train", "A Hub dataset needs datasets"):
        import datasets
    name = f"{options.hub}{f'@{options.revision}' if options.revision else ''}/{options.split}"
    try:
        rows = datasets.load_dataset(str(options.hub), options.subset, revision=options.revision, split=options.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise BadDataError(f"Cannot load {name} from the Hub: {' '.join(str(error).split())}") from error
    for number, row in enumerate(rows, start=1):
        yield RawLine(name, number, json.dumps(row, default=str).encode())
