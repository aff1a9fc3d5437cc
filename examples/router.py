"""A small router before several replicas of `deltamem serve` that share a store.

    python examples/router.py http://127.0.0.1:8001 http://127.0.0.1:8002 --port 8000

A session's requests go to one replica, so that turns of one session wait for one another there instead of meeting in
the store. When that replica is not ready, they go to the next, which continues from the last committed memory. A
request that no replica took is sent on to the next one; one that a replica may have begun is not sent twice: it gets
502, and its client asks again.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

EVERY = 1.0
"""Seconds between two times that a replica is asked whether it is ready."""
PATIENCE = 5.0
"""Seconds after which a replica that does not answer this counts as gone."""
IDLE = 2.0
"""Seconds that an idle connection to a replica is kept: fewer than the five after which the replica would close it."""
_HOPS = {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_SESSION = re.compile(r"/v1/sessions/([^/]+)")


class Router:
    """Which replica a session goes to, and the way there.

    Args:
        replicas: their addresses.
        client: what requests are sent with.
    """

    def __init__(self, replicas: Sequence[str], client: httpx.AsyncClient) -> None:
        self.ready = dict.fromkeys((url.rstrip("/") for url in replicas), True)
        self._client = client

    def order(self, session: str) -> list[str]:
        """The replicas as a session tries them: the ready ones first, each session in an order of its own."""
        drawn = {url: hashlib.blake2b(f"{url}\n{session}".encode()).digest() for url in self.ready}
        return sorted(drawn, key=lambda url: (not self.ready[url], drawn[url]))

    async def watch(self) -> None:
        """Asks the replicas whether they are ready, again and again, until it is cancelled."""
        while True:
            await asyncio.gather(*map(self.ask, self.ready))
            await asyncio.sleep(EVERY)

    async def ask(self, url: str) -> None:
        """Asks one replica, and once more where it breaks the connection off, before it counts as gone."""
        for _ in range(2):
            try:
                self.ready[url] = (await self._client.get(f"{url}/readyz", timeout=PATIENCE)).status_code == 200
                return
            except (httpx.ConnectError, httpx.TimeoutException):
                break
            except httpx.TransportError:
                continue
        self.ready[url] = False

    async def send(self, request: Request) -> Response:
        """Passes a request on and streams its answer back."""
        body = await request.body()
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOPS]
        for url in self.order(session_of(request, body)):
            place = httpx.URL(f"{url}{request.url.path}", query=request.url.query.encode())
            asked = self._client.build_request(request.method, place, headers=headers, content=body)
            try:
                answer = await self._client.send(asked, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):  # it was not taken
                self.ready[url] = False
                continue
            except httpx.TransportError as error:
                self.ready[url] = False
                return _problem(502, f"The replica ended before it answered ({type(error).__name__}); ask again.")
            given = {name: value for name, value in answer.headers.items() if name not in _HOPS}
            return StreamingResponse(_parts(answer), answer.status_code, given | {"x-replica": url})
        return _problem(503, "No replica can be reached; ask again in a moment.")


def session_of(request: Request, body: bytes) -> str:
    """What keeps a client's requests together: its session and its key; its key alone where it names no session."""
    named = request.headers.get("x-memory-session", "")
    if not named and (found := _SESSION.match(request.url.path)):
        named = found[1]
    if not named and body.startswith(b"{"):
        with contextlib.suppress(ValueError, AttributeError):
            named = str(json.loads(body).get("memory", {}).get("session", ""))
    return f"{request.headers.get('authorization', '')} {named}"


async def _parts(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes of an answer as they come, as they are."""
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


def _problem(status: int, message: str) -> Response:
    kind = {"message": message, "type": "server_error", "param": None, "code": "replica_unavailable"}
    return JSONResponse({"error": kind}, status, {"retry-after": "1"})


def create_router(replicas: Sequence[str]) -> Starlette:
    """The router as an application."""

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=IDLE)
        async with httpx.AsyncClient(timeout=httpx.Timeout(None, connect=PATIENCE), limits=limits) as client:
            router = Router(replicas, client)
            watching = asyncio.create_task(router.watch())
            try:
                yield {"router": router}
            finally:
                watching.cancel()

    async def send(request: Request) -> Response:
        return await request.state.router.send(request)

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", send, methods=methods)], lifespan=life)


def main() -> None:
    """Routes until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replicas", nargs="+", metavar="URL")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    # Longer than clients keep theirs: a request must not meet a connection that just closes.
    uvicorn.run(
        create_router(options.replicas), host=options.host, port=options.port, access_log=False, timeout_keep_alive=75
    )


if __name__ == "__main__":
    main()
