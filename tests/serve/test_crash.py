"""The promises at scale, in small; ``benchmarks/promises.py`` has the long versions."""

import math
from typing import Any

import pytest
from scripts import benchmark


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_killed_server_keeps_every_turn_that_it_acknowledged(database: str, request: pytest.FixtureRequest) -> None:
    cluster: Any = request.getfixturevalue("cluster") if database == "postgresql" else None
    store = cluster.empty_database() if cluster else ""
    kills = 1 if cluster else 2
    report = benchmark("crash").measure(kills=kills, clients=3, turns=4, store=store)
    assert report["problems"] == []
    assert (report["database"], report["kills"]) == (database, kills)
    assert report["turns_acknowledged"] >= kills
    assert report["versions_checked"] == report["turns_acknowledged"] + report["committed_but_not_acknowledged"]


def test_broken_requests_and_changed_files_are_refused_and_nothing_is_unpickled() -> None:
    report = benchmark("promises").fuzz(450, math.inf)
    assert report["problems"] == []
    assert report["classes_looked_up_by_pickle"] == 0
    statuses = report["requests_by_status"]
    assert sum(statuses.values()) == 300
    assert statuses["200"] > 20 < statuses["400"]
    files = report["files"]
    assert files["state refused"] > 50
    assert "state read" not in files or files["state read"] < 20
    assert any(name.startswith("adapter") for name in files)
