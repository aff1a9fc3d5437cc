"""The HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

from deltamem.serve.errors import ErrorBody, install_error_handlers
from deltamem.serve.middleware import Gate
from deltamem.serve.routes.anthropic import router as anthropic
from deltamem.serve.routes.audit import router as audit
from deltamem.serve.routes.chat import router as chat
from deltamem.serve.routes.completions import router as completions
from deltamem.serve.routes.embeddings import router as embeddings
from deltamem.serve.routes.lookback import router as lookback
from deltamem.serve.routes.memories import router as memories
from deltamem.serve.routes.page import add_page
from deltamem.serve.routes.recall import router as recall
from deltamem.serve.routes.responses import router as responses
from deltamem.serve.routes.rights import router as rights
from deltamem.serve.routes.sessions import router as sessions
from deltamem.serve.routes.system import models
from deltamem.serve.routes.system import router as system
from deltamem.serve.server import Server, look_after
from deltamem.version import __version__

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "Something about the request is wrong; the message says what."},
    401: {"model": ErrorBody, "description": "The API key is missing, unknown or revoked."},
    403: {"model": ErrorBody, "description": "The API key may not do that, or the host name is not the server's."},
    404: {"model": ErrorBody, "description": "There is no such session, version or path for this tenant."},
    409: {"model": ErrorBody, "description": "The session moved on, is frozen, exists, or has another adapter."},
    413: {"model": ErrorBody, "description": "The body is too large."},
    429: {"model": ErrorBody, "description": "Too much at once; Retry-After says when to come back."},
    503: {"model": ErrorBody, "description": "The store is out of reach, or the server is shutting down."},
    504: {"model": ErrorBody, "description": "The deadline passed."},
}


def create_app(server: Server) -> FastAPI:
    """The application of a server, which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beside = [asyncio.create_task(work) for work in (look_after(server), server.courier.run())]
        yield
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        server.close()

    app = FastAPI(
        title="deltamem",
        version=__version__,
        description="A language model with memories that last. Compatible with OpenAI's chat and completions.",
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,
        openapi_url="/openapi.json",
    )
    app.state.server = server
    openai = (chat, completions, responses, embeddings, models)
    for part in (*openai, anthropic, sessions, recall, memories, lookback, audit, rights):
        app.include_router(part, responses=_ERRORS)
    app.include_router(system)
    add_page(app)
    install_error_handlers(app)
    app.add_middleware(Gate, server=server)
    if server.settings.allow_origins:
        # The outermost, so that every answer may be read by the pages it is for, a refusal too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.settings.allow_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The API's description: errors are ours, so FastAPI's own kind of 422 is taken out of it."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for operations in described["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            described["components"]["schemas"].pop(name, None)
        app.openapi_schema = described
    return app.openapi_schema
