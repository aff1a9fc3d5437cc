"""The promises at scale, in small; ``benchmarks/promises.py`` has the long versions."""

import math
from pathlib import Path
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
    report = benchmark("fuzz").measure(720)
    assert report["problems"] == []
    assert report["classes_looked_up_by_pickle"] == 0
    statuses = report["requests_by_status"]
    assert sum(statuses.values()) == 180
    assert statuses["200"] > 20 < statuses["400"]
    files = report["files"]
    assert files["state refused"] > 50
    assert "state read" not in files or files["state read"] < 20
    assert files["state with a checksum that fits read"] > 10 < files["state with a checksum that fits refused"]
    assert any(name.startswith("adapter") for name in files)


def test_slices_of_a_promise_are_added_up_where_the_last_run_stopped(tmp_path: Path) -> None:
    promises = benchmark("promises")
    seeds: list[int] = []

    def run(count: int, seed: int, until: float) -> dict[str, Any]:
        seeds.append(seed)
        return {"kills": count, "database": "sqlite", "largest_difference_of_a_state": seed, "by": {"200": count}}

    part = promises.Part(run, "kills", promised=7, slice=3)
    assert promises.go_on(part, tmp_path / "kills.json", 4, math.inf)["kills"] == 4
    found = promises.go_on(part, tmp_path / "kills.json", 7, math.inf)
    assert seeds == [0, 1, 2]
    assert {name: found[name] for name in ("slices", "kills", "database", "by")} == {
        "slices": 3,
        "kills": 7,
        "database": "sqlite",
        "by": {"200": 7},
    }
    assert found["largest_difference_of_a_state"] == 2
