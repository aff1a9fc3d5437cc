from scripts import benchmark


def test_a_killed_server_keeps_every_turn_that_it_acknowledged() -> None:
    report = benchmark("crash").measure(kills=2, clients=3, turns=4)
    assert report["problems"] == []
    assert report["turns_acknowledged"] >= 2
    assert report["versions_checked"] == report["turns_acknowledged"] + report["committed_but_not_acknowledged"]
