"""Between the engine's thread and the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from deltamem.serve.errors import ApiError
from deltamem.serve.jobs import Deliver, Done, Event, Failed, Ticket, Written

T = TypeVar("T")
Start = Callable[[Deliver], Ticket]


class Jobs:
    """Jobs in the engine whose events arrive on the event loop.

    Args:
        starts: each submits one job; if one is refused, the others are cancelled and the refusal is raised.
    """

    def __init__(self, starts: Sequence[Start]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        try:
            for number, start in enumerate(starts):
                self._tickets.append(start(self._deliver(number)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Frees the rows; harmless when the jobs are over."""
        for ticket in self._tickets:
            ticket.cancel()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The events of all jobs as they come, each with its job's number, until all are over.

        Raises:
            EngineError: a job failed.
        """
        left = len(self._tickets)
        while left:
            number, event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            left -= isinstance(event, (Done, Written))
            yield number, event

    def _deliver(self, number: int) -> Deliver:
        def deliver(event: Event) -> None:
            # The loop is gone when the server was killed while a job ran; then nobody listens.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        return deliver


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away.

    Raises:
        ApiError: the client went away; nobody will read it.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "The client closed the connection.", "client_closed_request")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
