"""What several tests of the server share."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scripts import running_postgres
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
    yield from running_postgres()
