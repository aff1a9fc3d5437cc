"""What several tests of the server share."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scripts import postgres
from serving import running

from deltamem.serve.server import Server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of the server that a module has as its fixture."""
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A PostgreSQL server of the tests' own."""
    pytest.importorskip("psycopg")
    if postgres().find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed (initdb is neither on the path nor in /usr/lib/postgresql)")
    cluster = postgres().Server(postgres().find_binaries())
    yield cluster
    cluster.remove()
