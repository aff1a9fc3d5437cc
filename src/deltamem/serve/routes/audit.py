"""``/v1/audit``: who did what to what the tenant has."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from deltamem.serve.routes.common import AdminOf, ServerOf
from deltamem.store import NAME_PATTERN, Action, AuditLog

router = APIRouter(prefix="/v1", tags=["operating"])
_Name = Annotated[str | None, Query(pattern=f"^{NAME_PATTERN}$")]


class AuditItem(BaseModel):
    """What someone did; ``key`` is null where the server needed none, and ``operator`` for a command."""

    number: int
    created: datetime
    action: Action
    route: str
    status: int
    key: str | None
    session: str | None
    user: str | None
    request_id: str | None


class AuditPage(BaseModel):
    """Entries, the oldest first; ``after`` begins the next page, and is null after the last."""

    object: Literal["list"] = "list"
    kept: bool
    data: list[AuditItem]
    after: int | None


@router.get("/audit", summary="Who read, wrote, exported and deleted")
async def audit(
    server: ServerOf,
    caller: AdminOf,
    session: _Name = None,
    user: _Name = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> AuditPage:
    """The tenant's entries, of a session, a user or a time if wanted; ``kept`` says whether the server adds any."""

    def read() -> AuditPage:
        found = AuditLog(server.store).read(
            caller.tenant, session=session, user=user, since=since, until=until, after=after, limit=limit
        )
        items = [AuditItem(**{name: getattr(one, name) for name in AuditItem.model_fields}) for one in found]
        more = items[-1].number if len(items) == limit else None
        return AuditPage(kept=server.settings.audit, data=items, after=more)

    return await asyncio.to_thread(read)
