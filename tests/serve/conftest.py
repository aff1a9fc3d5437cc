"""What several tests of the server share."""

from collections.abc import Iterator
from typing import Any

import pytest
from scripts import postgres


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A PostgreSQL server of the tests' own."""
    pytest.importorskip("psycopg")
    if postgres().find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed (initdb is neither on the path nor in /usr/lib/postgresql)")
    cluster = postgres().Server(postgres().find_binaries())
    yield cluster
    cluster.remove()
