"""What the routes have in common: the caller, the options of the memory, and streams that clean up."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import StreamingResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import ValidationError
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deltamem.serve.access import Caller
from deltamem.serve.errors import ApiError, as_api_error, invalid, log_failure
from deltamem.serve.schema.completions import ChatRequest, Generation, MemoryOptions
from deltamem.serve.server import Server
from deltamem.store import NAME_PATTERN, Action, Scope

# Seconds after which a stream says that it is still there.
SILENCE = 5.0
_bearer = HTTPBearer(auto_error=False, description="An API key, if the server needs one.")
_x_api_key = APIKeyHeader(name="x-api-key", auto_error=False, description="The same, as Anthropic's clients send it.")


async def _keys(_: Annotated[Any, Depends(_bearer)], __: Annotated[Any, Depends(_x_api_key)]) -> None:
    """Where the API's description says that a key may be; :class:`deltamem.serve.access.Access` reads it."""


def server_of(request: Request) -> Server:
    """The server that a request is for."""
    server: Server = request.app.state.server
    return server


UserHeader = Annotated[
    str | None,
    Header(alias="X-Memory-User", pattern=f"^{NAME_PATTERN}$", description="Whose the sessions are that this makes."),
]


async def _caller(request: Request, _: Annotated[Any, Depends(_keys)], for_user: UserHeader = None) -> Caller:
    needs: Scope = "read" if request.method == "GET" else "write"
    return await server_of(request).admit(request, needs, _action(request), for_user)


async def _asking(request: Request, _: Annotated[Any, Depends(_keys)], for_user: UserHeader = None) -> Caller:
    action: Action | None = "read" if "session" in request.path_params else None
    return await server_of(request).admit(request, "read", action, for_user)


async def _administering(request: Request, _: Annotated[Any, Depends(_keys)], for_user: UserHeader = None) -> Caller:
    return await server_of(request).admit(request, "admin", _action(request), for_user)


def _action(request: Request) -> Action:
    actions: dict[str, Action] = {"GET": "read", "DELETE": "delete"}
    return actions.get(request.method, "write")


ServerOf = Annotated[Server, Depends(server_of)]
# Who a request comes from, counted against the limits. Whatever is not a GET needs a key that may write, but for what
# is asked by POST: such routes change nothing, or only by a turn, which needs such a key itself.
CallerOf = Annotated[Caller, Depends(_caller)]
AskerOf = Annotated[Caller, Depends(_asking)]
AdminOf = Annotated[Caller, Depends(_administering)]
SessionHeader = Annotated[
    str | None, Header(alias="X-Memory-Session", pattern=f"^{NAME_PATTERN}$", description="The session to use.")
]
# What an answer comes as: one JSON object, or the events of a stream.
WHOLE_OR_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}}
}


def memory_options(body: Generation, header: str | None) -> MemoryOptions:
    """Which memory a completion uses: the body's options, and the header's session.

    Raises:
        ApiError: the two name different sessions, or the options cannot be met.
    """
    options = body.memory or MemoryOptions()
    if header is not None:
        if options.session not in (None, header) or options.state is not None:
            raise invalid("X-Memory-Session and memory name different memories.", "memory")
        options = options.model_copy(update={"session": header})
    if body.return_state:
        options = options.model_copy(update={"return_state": True})
    if options.writes and body.n > 1:
        raise invalid("n must be 1 when the turn is written to memory; for several answers use mode read_only.", "n")
    return options


def as_chat(translate: Callable[[], ChatRequest]) -> ChatRequest:
    """A request of another dialect as one for chat.

    Raises:
        ApiError: its parts do not belong together.
    """
    try:
        return translate()
    except ValidationError as error:
        raise invalid(error.errors()[0]["msg"]) from None


def check_biases(body: Generation, vocabulary: int) -> None:
    """Refuses biases of tokens that are not there.

    Raises:
        ApiError: there is one.
    """
    if any(int(token) >= vocabulary for token in body.logit_bias or ()):
        raise invalid(f"Token ids go from 0 to {vocabulary - 1}.", "logit_bias")


class EventStream(StreamingResponse):
    """Server-sent events; what the stream holds is let go however it ends, even before it began.

    Args:
        request: who waits for it.
        events: what to send, one JSON value an event.
        held: what the stream holds.
        failed: the event that tells of an error, where each event has its type for a name and none marks the end.
    """

    def __init__(
        self,
        request: Request,
        events: AsyncIterator[dict[str, Any]],
        held: AsyncExitStack,
        *,
        failed: Callable[[ApiError], dict[str, Any]] | None = None,
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        self._lines = _lines(request, events, failed)
        super().__init__(self._lines, media_type="text/event-stream", headers=headers)
        self._held = held

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        # The stream ends before what it holds is let go: a turn that is being committed is waited for.
        async with self._held, aclosing(self._lines):
            await super().__call__(scope, receive, send)


async def _lines(
    request: Request, events: AsyncIterator[dict[str, Any]], failed: Callable[[ApiError], dict[str, Any]] | None
) -> AsyncGenerator[str, None]:
    """The events as text, with a comment wherever there is none for a while: proxies cut what is silent.

    An error ends the events, and then they lack the end mark. The status was sent long before, so the log and a
    counter of its own tell of the error.
    """
    named = failed is not None
    try:
        async with aclosing(_never_silent(events)) as spoken:
            async for event in spoken:
                yield ": still at it\n\n" if event is None else _line(event, named)
        await server_of(request).acts.record(request.scope, 200)
    except Exception as error:
        answer = as_api_error(error)
        log_failure(request, error)
        server_of(request).metrics.stream_errors.labels(answer.code).inc()
        yield _line(answer.body() if failed is None else failed(answer), named)
        return
    if not named:
        yield "data: [DONE]\n\n"


def _line(event: dict[str, Any], named: bool) -> str:
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event)}\n\n"


async def _never_silent(events: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The events, and ``None`` every :data:`SILENCE` seconds that bring none."""
    coming: asyncio.Future[dict[str, Any]] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(events))
            while not (await asyncio.wait((coming,), timeout=SILENCE))[0]:
                yield None
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
