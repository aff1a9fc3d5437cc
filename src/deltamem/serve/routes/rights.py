"""``/v1/tenants`` and ``/v1/users``: everything that a tenant or a user has, taken along or deleted in one call."""

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from deltamem.serve.access import Caller
from deltamem.serve.errors import ApiError
from deltamem.serve.routes.common import AdminOf, ServerOf
from deltamem.serve.server import Server
from deltamem.store import NAME_PATTERN, export

router = APIRouter(prefix="/v1", tags=["operating"])
_Tenant = Annotated[str, Path(pattern=f"^{NAME_PATTERN}$", description="The tenant that the key opens.")]
_User = Annotated[str, Path(pattern=f"^{NAME_PATTERN}$", description="One of the tenant's users.")]
_LINES = "application/x-ndjson"
_AS_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {_LINES: {"schema": {"type": "string"}}}, "description": "A JSON value a line."}
}


class DeletedAll(BaseModel):
    """How many sessions were deleted."""

    id: str
    sessions: int
    deleted: Literal[True] = True


@router.get(
    "/tenants/{tenant}/export",
    summary="Everything that the tenant has",
    response_class=StreamingResponse,
    responses=_AS_LINES,
)
async def export_tenant(tenant: _Tenant, request: Request, server: ServerOf, caller: AdminOf) -> StreamingResponse:
    """A JSON value a line: sessions with all kept versions and messages, API keys without secrets, the audit log.

    The last one is ``{"object": "end"}``; without it the export is incomplete.
    """
    _own(caller, tenant)
    return await _export(request, server, caller, None)


@router.get(
    "/users/{user}/export",
    summary="Everything that a user has",
    response_class=StreamingResponse,
    responses=_AS_LINES,
)
async def export_user(user: _User, request: Request, server: ServerOf, caller: AdminOf) -> StreamingResponse:
    """The same, of the sessions that are the user's, and of the audit log what is about them."""
    return await _export(request, server, caller, user)


@router.delete("/tenants/{tenant}", summary="Delete everything that the tenant has")
async def delete_tenant(tenant: _Tenant, server: ServerOf, caller: AdminOf) -> DeletedAll:
    """Deletes all sessions with versions and messages, and the API keys, this one too. The audit log stays."""
    _own(caller, tenant)
    return DeletedAll(id=tenant, sessions=await asyncio.to_thread(server.store.delete_tenant, tenant))


@router.delete("/users/{user}", summary="Delete everything that a user has")
async def delete_user(user: _User, server: ServerOf, caller: AdminOf) -> DeletedAll:
    """Deletes the user's sessions with versions and messages. The audit log stays."""
    return DeletedAll(id=user, sessions=await asyncio.to_thread(server.store.delete_user, caller.tenant, user))


def _own(caller: Caller, tenant: str) -> None:
    if tenant != caller.tenant:
        raise ApiError(404, f"There is no tenant {tenant!r} that this API key opens.", "not_found", "tenant")


async def _export(request: Request, server: Server, caller: Caller, user: str | None) -> StreamingResponse:
    caller.touch("export", None)
    lines = export(server.store, caller.tenant, user)
    await server.acts.record(request.scope, 200)
    text = (json.dumps(line) + "\n" for line in lines)
    name = f'attachment; filename="{(user or caller.tenant).replace(":", "_")}.jsonl"'
    return StreamingResponse(text, media_type=_LINES, headers={"Content-Disposition": name})
