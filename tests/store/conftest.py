"""Every test of the store runs on both databases; PostgreSQL's server is a real one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import Server, find_binaries

from deltamem.store import SessionStore


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (initdb is neither on the path nor in /usr/lib/postgresql)")
    server = Server(binaries)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sessions.db'}"
    server: Server = request.getfixturevalue("server")
    return server.empty_database()


@pytest.fixture
def opened(url: str) -> Iterator[Callable[..., SessionStore]]:
    """Opens stores on that database, and closes them."""
    stores: list[SessionStore] = []

    def open_store(**options: object) -> SessionStore:
        stores.append(SessionStore.open(url, **options))  # type: ignore[arg-type]
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[..., SessionStore]) -> SessionStore:
    return opened(keep_messages=True)


@pytest.fixture
def memory() -> Iterator[SessionStore]:
    """A store for what does not depend on the database."""
    with SessionStore.open("sqlite://") as store:
        yield store
