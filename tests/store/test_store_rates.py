"""Limits are counted once for all who use a store, and come back evenly."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from deltamem.store import ApiKeys, InvalidError, Rates, SessionStore, TenantLimits

Opened = Callable[..., SessionStore]
FEW = {"tenant:t": TenantLimits(requests_per_minute=6)}


class Clock:
    """The time that rates are counted by."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def goes_on(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("deltamem.store.rates.now", clock)
    return clock  # type: ignore[return-value]


def test_requests_are_counted_together_by_all_servers(opened: Opened, clock: Clock) -> None:
    one, two = Rates(opened()), Rates(opened())
    assert [rates.admit(FEW) for rates in (one, two) * 3] == [None] * 6
    over = two.admit(FEW)
    assert over is not None
    assert (over.whose, over.what, over.seconds) == ("tenant:t", "requests", pytest.approx(10))
    clock.goes_on(9)
    assert one.admit(FEW) is not None
    clock.goes_on(1)
    assert one.admit(FEW) is None
    assert two.admit(FEW) is not None
    clock.goes_on(3600)
    assert [one.admit(FEW) is None for _ in range(7)] == [True] * 6 + [False]


def test_what_one_limit_refuses_does_not_count_against_another(store: SessionStore, clock: Clock) -> None:
    rates = Rates(store)
    both = {"key:k": TenantLimits(requests_per_minute=1), **FEW}
    assert rates.admit(both) is None
    for _ in range(9):
        over = rates.admit(both)
        assert over is not None
        assert over.whose == "key:k"
    assert [rates.admit(FEW) is None for _ in range(6)] == [True] * 5 + [False]


def test_tokens_may_be_overdrawn_and_have_to_come_back(opened: Opened, clock: Clock) -> None:
    one, two = Rates(opened()), Rates(opened())
    limits = {"key:k": TenantLimits(tokens_per_minute=60)}
    assert one.admit(limits) is None
    one.charge(limits, 90)
    over = two.admit(limits)
    assert over is not None
    assert (over.what, over.seconds) == ("tokens", pytest.approx(31))
    clock.goes_on(31)
    assert two.admit(limits) is None


def test_a_clock_that_goes_back_gives_nothing(store: SessionStore, clock: Clock) -> None:
    rates = Rates(store)
    assert [rates.admit(FEW) is None for _ in range(6)] == [True] * 6
    clock.goes_on(-3600)
    assert rates.admit(FEW) is not None


def test_many_at_once_get_no_more_than_there_are(opened: Opened, clock: Clock) -> None:
    servers = [Rates(opened()) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        let_in = list(threads.map(lambda n: servers[n % 2].admit(FEW) is None, range(16)))
    assert sum(let_in) == 6


def test_a_tenants_limits_come_with_its_keys(store: SessionStore) -> None:
    rates, keys = Rates(store), ApiKeys(store)
    secret = keys.create("t").secret
    rates.limit("t", TenantLimits(100, 2000))
    found = keys.authenticate(secret)
    assert found is not None
    assert found.tenant_limits == keys.list()[0].tenant_limits == TenantLimits(100, 2000)
    assert keys.create("u").record.tenant_limits == TenantLimits()
    assert rates.limits() == {"t": TenantLimits(100, 2000)}
    rates.limit("t", TenantLimits())
    assert rates.limits() == {}
    for wrong in (TenantLimits(0), TenantLimits(None, -1)):
        with pytest.raises(InvalidError, match="per_minute"):
            rates.limit("t", wrong)
    rates.limit("t", TenantLimits(5))
    rates.admit({"tenant:t": TenantLimits(5), f"key:{keys.list('t')[0].id}": TenantLimits(5)})
    store.delete_tenant("t")
    assert rates.limits() == {}
