"""The simulation of a fleet: its services are those that were measured, and what it says of a load is so."""

import pytest

pytest.importorskip("simpy")
from fleet import QUEUE, Service, fitted, run, unloaded

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
