"""Where deltamem keeps what belongs to a user."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem.files import data_folder

if TYPE_CHECKING:
    from deltamem.store import SessionStore

SECRET = "DELTAMEM_STATE_SECRET"
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="DELTAMEM_STORE",
        help="sqlite:///file or postgresql://user@host/database; a file in your data folder by default.",
    ),
]
"""The store of a server's sessions."""


def _made_folder() -> Path:
    """The data folder, which only its owner may enter."""
    folder = data_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def open_store(
    url: str, *, keep_messages: bool = False, keep_versions: int | None = 20, create: bool = True
) -> "SessionStore":
    """The session store at a URL, or a SQLite file in the data folder, with the environment's encryption keys."""
    from deltamem.store import SessionStore, StateKeys

    return SessionStore.open(
        url or f"sqlite:///{_made_folder() / 'sessions.db'}",
        keys=StateKeys.from_environment(),
        keep_messages=keep_messages,
        keep_versions=keep_versions,
        create=create,
    )


def state_secret() -> bytes:
    """What states are signed with: the environment's, or one kept in the data folder, which is made."""
    given = os.environ.get(SECRET)
    if given:
        return given.encode()
    path = _made_folder() / "state-secret"
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
    return path.read_bytes()
