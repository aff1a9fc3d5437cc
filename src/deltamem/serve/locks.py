"""Waiting for one's turn, but not past a deadline."""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from deltamem.serve.engine.jobs import DeadlineError
from deltamem.serve.errors import too_many


class Locks:
    """Locks by name, each there as long as someone uses it. One event loop uses them.

    Args:
        most: how many may hold or wait for one name; any number by default.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, name: Hashable, deadline: float) -> AsyncIterator[None]:
        """Within the block no one else holds this name.

        Raises:
            ApiError: 429, enough wait for it already.
            DeadlineError: those before took until the deadline.
        """
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        if self._most is not None and users >= self._most:
            raise too_many(f"{users} such requests are under way already.", "queue_full", 1)
        self._locks[name] = (lock, users + 1)
        try:
            try:
                await asyncio.wait_for(lock.acquire(), deadline - time.monotonic())
            except TimeoutError:
                raise DeadlineError("The requests before this one were not done by its deadline.") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[name]
            if users > 1:
                self._locks[name] = (lock, users - 1)
            else:
                del self._locks[name]
