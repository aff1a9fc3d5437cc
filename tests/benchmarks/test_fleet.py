"""The simulation of a fleet: its services are those that were measured, and what it says of a load is so."""

import pytest

pytest.importorskip("simpy")
from fleet import QUEUE, Service, check, fitted, run, unloaded

SERVICE = Service(fixed=0.01, each=0.001, steps=10, most=4)


def test_a_service_is_the_one_that_was_measured() -> None:
    points = [(n, 10 * (0.01 / n + 0.001)) for n in (1, 2, 4)]
    found = fitted(points, steps=10, most=4)
    assert (found.fixed, found.each) == pytest.approx((0.01, 0.001))
    assert found.ceiling == pytest.approx(4 / (10 * 0.014))


def test_a_turn_alone_takes_its_steps() -> None:
    outcome, _ = run(SERVICE, 2, rate=0.05, seconds=200)
    assert outcome.quantile(0.5) == pytest.approx(unloaded(SERVICE))
    assert outcome.refused == 0


def test_more_than_the_ceiling_is_refused_and_less_is_not() -> None:
    ceiling = 2 * SERVICE.ceiling
    over, busy = run(SERVICE, 2, rate=1.5 * ceiling, seconds=40)
    assert over.refused > 0
    assert busy == pytest.approx(1, abs=0.05)
    assert len(over.latencies) == pytest.approx(40 * ceiling, rel=0.1)
    assert over.quantile(0.5) > QUEUE / SERVICE.ceiling / 2
    assert run(SERVICE, 2, rate=0.6 * ceiling, seconds=40)[0].refused == 0


def test_what_a_replica_takes_along_is_asked_again_elsewhere() -> None:
    outcome, _ = run(SERVICE, 3, rate=1.2 * SERVICE.ceiling, seconds=40, kill_at=20)
    assert outcome.repeated > 0
    assert outcome.quantile(0.95, 20, 30) >= outcome.quantile(0.95, 10, 20)
    assert len(outcome.latencies) == pytest.approx(1.2 * SERVICE.ceiling * 40, rel=0.15)


def test_two_replicas_on_one_core_share_it() -> None:
    alone = 10 * (0.01 + 0.001)
    real = {
        "replicas": 2,
        "clients": 2,
        "turns": 40,
        "turns_per_second": 4.0,
        "share": 0.5,
        "cpu_ms_per_turn": {"replicas": 1000 * alone, "router": 4.0, "clients": 6.0},
        "latency_s": {"median": 2 * (alone + 0.01), "p95": 1.0},
    }
    found = check(SERVICE, {"runs": [real]})
    assert found["replicas_cpu_ms_per_turn"]["simulated_x"] == pytest.approx(1)
    assert found["turns_per_second_of_the_core"]["measured"] == 8
    assert found["turns_per_second_of_the_core"]["simulated"] == pytest.approx(1 / (alone + 0.01), rel=0.05)
    assert found["median_latency_s_of_the_core"]["measured"] == pytest.approx(alone + 0.01)
    assert found["median_latency_s_of_the_core"]["simulated"] == pytest.approx(2 * (alone + 0.01), rel=0.1)
