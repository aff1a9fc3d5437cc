"""Waiting for one's turn."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from deltamem.serve.engine.jobs import DeadlineError
from deltamem.serve.errors import ApiError
from deltamem.serve.locks import Locks


def soon() -> float:
    return time.monotonic() + 60


def test_one_after_another_by_name_and_nothing_is_left_over() -> None:
    async def run() -> list[str]:
        locks, order = Locks(), []

        async def turn(name: str, number: int) -> None:
            async with locks.hold(name, soon()):
                order.append(f"{name}{number} in")
                await asyncio.sleep(0)
                order.append(f"{name}{number} out")

        await asyncio.gather(turn("a", 1), turn("a", 2), turn("b", 3))
        assert len(locks) == 0
        return order

    order = asyncio.run(run())
    assert order.index("a1 out") < order.index("a2 in")
    assert order.index("b3 in") < order.index("a1 out")


def test_a_wait_ends_at_the_deadline_and_too_many_are_refused() -> None:
    async def run() -> None:
        locks = Locks(most=2)
        async with AsyncExitStack() as held:
            await held.enter_async_context(locks.hold("a", soon()))
            with pytest.raises(DeadlineError):
                await held.enter_async_context(locks.hold("a", time.monotonic() + 0.01))
            waiting = asyncio.create_task(held.enter_async_context(locks.hold("a", soon())))
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as refused:
                await held.enter_async_context(locks.hold("a", soon()))
            assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
            await held.enter_async_context(locks.hold("b", soon()))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert len(locks) == 0

    asyncio.run(run())
