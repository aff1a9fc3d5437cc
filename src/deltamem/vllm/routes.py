"""What plain `vllm serve` gets besides: a route for the memory of a request that is over, and refusals.

vLLM finds it as an endpoint plugin.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from deltamem.vllm.check import check_front
from deltamem.vllm.request import check_body

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

router = APIRouter()


class MemoryRoutes:
    """What `VLLM_PLUGINS=deltamem` adds to vLLM's server."""

    name = "deltamem"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the route and the refusals.

        Raises:
            UnfitError: vLLM lacks something that they lean on.
        """
        check_front()
        app.include_router(router)
        app.add_middleware(Refusals)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Remembers how the engine is reached."""
        state.deltamem_engine = engine_client


class Refusals:
    """Answers 400 to a request whose memory would be wrong, before vLLM sees it; see :func:`check_body`."""

    def __init__(self, app: Callable[[_Message, _Receive, _Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Reads the body, and hands it on as it came."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        body = await Request(scope, receive).body()
        if b"kv_transfer_params" in body:
            try:
                check_body(json.loads(body))
            except json.JSONDecodeError:
                pass  # vLLM says so
            except ValueError as problem:
                error = {"message": str(problem), "type": "BadRequestError", "param": None, "code": 400}
                return await JSONResponse({"error": error}, 400)(scope, receive, send)
        rest = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> _Message:
            return rest.pop() if rest else await receive()

        return await self._app(scope, receive_again, send)


@router.get("/v1/deltamem/memories/{ticket}")
async def take_memory(ticket: str, tokens: int, request: Request) -> Response:
    """The memory, as the file that `deltamem.load_state` reads, of the request with this ticket; only once.

    Args:
        ticket: what the request called it.
        tokens: how many tokens were fed: those of the prompt and of the answer but one, which the answer's usage tells.
        request: vLLM's.
    """
    found, *_ = await request.app.state.deltamem_engine.collective_rpc("deltamem_take_file", args=(ticket, tokens))
    if isinstance(found, str):
        raise HTTPException(404, found)
    return Response(found, media_type="application/octet-stream")
