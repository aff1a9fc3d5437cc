"""What a client asks before it starts, and what an operator watches."""

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from deltamem.serve.routes.common import AskerOf, ServerOf
from deltamem.serve.server import Server
from deltamem.store import StoreError

router = APIRouter(tags=["operating"])
models = APIRouter(prefix="/v1", tags=["openai"])


@models.get("/models", summary="The model that is served")
async def list_models(server: ServerOf, caller: AskerOf) -> dict[str, Any]:
    """A list of one."""
    return {"object": "list", "data": [_model(server)]}


@models.get("/models/{model:path}", summary="The model that is served")
async def get_model(model: str, server: ServerOf, caller: AskerOf) -> dict[str, Any]:
    """The model under whatever name, as requests may call it."""
    return _model(server)


@router.get("/healthz", summary="Whether the process is alive")
async def healthz() -> dict[str, str]:
    """Answers as long as the process does."""
    return {"status": "ok"}


@router.get(
    "/readyz", summary="Whether requests can be served", responses={503: {"description": "The engine or the store."}}
)
async def readyz(server: ServerOf) -> JSONResponse:
    """Asks the engine and the store."""
    problems = [] if server.engine.alive else ["the engine has stopped"]
    if server.problem is not None:
        problems.append(server.problem)
    try:
        await asyncio.to_thread(server.store.check)
    except StoreError as error:
        problems.append(error.public)
    return JSONResponse({"status": "; ".join(problems) or "ready"}, 503 if problems else 200)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(server: ServerOf) -> Response:
    """The server's metrics; they name no session and no tenant."""
    return Response(server.metrics.expose(server.engine.load), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(server: Server) -> dict[str, Any]:
    return {
        "id": server.settings.model_name,
        "object": "model",
        "created": server.started,
        "owned_by": "deltamem",
        "context_length": server.engine.context,
        "adapter": server.states.fingerprint,
    }
