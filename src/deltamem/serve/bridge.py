"""Between the engine's thread and the event loop."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import anyio
from starlette.requests import Request

from deltamem.serve.engine.jobs import Deliver, Done, Event, Failed, Ticket, Written
from deltamem.serve.errors import ApiError

# Encoding so many characters takes less than handing it to a thread and back.
_SHORT = 2000

T = TypeVar("T")
Start = Callable[[Deliver], Ticket]


class Inbox:
    """Events on their way to event loops: those of one pass of the engine wake a loop once."""

    def __init__(self) -> None:
        self._items: deque[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = deque()

    def put(self, loop: asyncio.AbstractEventLoop, take: Callable[[], None]) -> None:
        """Has ``take`` called on a loop, at the next :meth:`hand_over`."""
        self._items.append((loop, take))

    def hand_over(self) -> None:
        """Wakes the loops."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        while self._items:
            loop, take = self._items.popleft()
            by_loop.setdefault(loop, []).append(take)
        for loop, takes in by_loop.items():
            # The loop is gone when the server was killed while a job ran; then nobody listens.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_take_all, takes)


class Jobs:
    """Jobs in the engine whose events arrive on the event loop.

    Args:
        inbox: what the engine hands events over with.
        starts: each submits one job; if one is refused, the others are cancelled and the refusal is raised.
    """

    def __init__(self, inbox: Inbox, starts: Sequence[Start]) -> None:
        self._inbox = inbox
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
            self._inbox.put(self._loop, lambda: self._events.put_nowait((number, event)))

        return deliver


async def encoded(work: Callable[[], T], texts: Iterable[str]) -> T:
    """What ``work`` makes of texts; long ones in a thread, so that the loop serves others meanwhile."""
    if sum(map(len, texts)) < _SHORT:
        return work()
    return await asyncio.to_thread(work)


async def settled(work: Awaitable[T], stop: Callable[[], object] = lambda: None) -> T:
    """The result of work that a thread does; whoever cancels it waits until it is over.

    Args:
        work: what to wait for.
        stop: called when it is cancelled, to bring its end nearer.
    """
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    # What cancels a stream does so at every step again, unless it is kept out.
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                cancelled = error
                stop()
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()  # nobody is left to be told
    raise cancelled


def _take_all(takes: Sequence[Callable[[], None]]) -> None:
    for take in takes:
        take()


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
