"""Work with the model beside the engine: looking again at what was said."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from deltamem.serve.auth import Caller
from deltamem.serve.bridge import settled, unless_disconnected
from deltamem.serve.jobs import Ticket
from deltamem.serve.server import Server

T = TypeVar("T")
Check = Callable[[], None]


def go_on() -> None:
    """The check of work that nothing interrupts."""


async def beside_engine(server: Server, caller: Caller, request: Request, work: Callable[[Check], T]) -> T:
    """What ``work`` gives, done in a thread while no other such work runs.

    Args:
        server: whose model it is.
        caller: who asked. A tenant has one request at a time in line for the model, however many it sends.
        request: what was asked; its deadline counts, and a client that leaves ends the work.
        work: gets a function that it calls between its steps, and that raises when the work is to end.

    Raises:
        ApiError: 429, the tenant has enough such requests; 499, the client left.
        EngineError: the deadline passed.
    """
    deadline = server.deadline(request)
    ticket = Ticket(lambda event: None, deadline)

    def check() -> None:
        problem = ticket.problem()
        if problem is not None:
            raise problem

    async def alone() -> T:
        async with server.looking_back.hold(caller.tenant, deadline), server.model_again.hold("model", deadline):
            return await settled(asyncio.to_thread(work, check), stop=ticket.cancel)

    return await unless_disconnected(request, alone())
