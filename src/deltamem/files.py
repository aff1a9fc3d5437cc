"""The user's folders, JSON that may come from anyone, and files that a reader sees old or new, never half of either."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, TypeGuard

import platformdirs

# What a repository of the Hugging Face Hub is called, where no folder of that name is.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def data_folder() -> Path:
    """Where a user's sessions are kept: ``DELTAMEM_HOME`` if set, else where the system keeps such things."""
    return _home() or platformdirs.user_data_path("deltamem", appauthor=False)


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: ``DELTAMEM_HOME`` if set, else in the user's cache folder."""
    return _home() or platformdirs.user_cache_path("deltamem", appauthor=False)


def _home() -> Path | None:
    given = os.environ.get("DELTAMEM_HOME")
    return Path(given) if given else None


def from_json(text: str | bytes) -> Any:
    """The value of JSON that may come from anyone.

    Raises:
        ValueError: it is not JSON, or nested more deeply than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that can be shown; JSON can spell half of a surrogate pair, which is not a character."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` beside ``path`` and moves it into place; makes the folder if need be.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; ours get the permissions of any other new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, data: Any, *, indent: int = 2, **options: Any) -> None:
    """Writes ``data`` as indented JSON, as :func:`write_atomically` does; ``options`` are those of ``json.dumps``."""
    write_atomically(path, (json.dumps(data, indent=indent, **options) + "\n").encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
