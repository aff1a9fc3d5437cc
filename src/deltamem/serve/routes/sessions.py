"""``/v1/sessions``: everything that can be done with a memory besides talking to it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic_core import from_json

from deltamem.serve.bridge import unless_disconnected
from deltamem.serve.errors import ApiError
from deltamem.serve.routes.common import CallerOf, ServerOf
from deltamem.serve.routes.views import (
    Deleted,
    Exported,
    MemoryMatrices,
    MessageLog,
    SessionDetail,
    SessionInfo,
    SessionList,
    Timeline,
    detail_of,
    info_of,
    memory_of,
    message_of,
    version_of,
)
from deltamem.serve.schema.completions import MemoryOptions
from deltamem.serve.schema.sessions import ChangeSession, CreateSession, Fork, Freeze, Import, Observe, Rollback
from deltamem.serve.turns import open_turn, received_state
from deltamem.state import MemoryState
from deltamem.store import NAME_PATTERN, Changes

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])
Session = Annotated[str, Path(pattern=f"^{NAME_PATTERN}$", description="The session's name.")]
Number = Annotated[int | None, Query(ge=1, lt=2**31)]


@router.post("", status_code=201, summary="Create a session, empty or from a state")
async def create(
    server: ServerOf, caller: CallerOf, body: Annotated[CreateSession, Body(default_factory=CreateSession)]
) -> SessionInfo:
    """Makes a session."""
    state = server.engine.new_state() if body.state is None else received_state(server, caller, body.state)
    record = await asyncio.to_thread(
        server.store.create,
        caller.tenant,
        body.session,
        fingerprint=server.states.fingerprint,
        state=server.states.pack(state),
        tokens=int(state.tokens[0]),
        label=body.label,
        user=caller.user,
        expires=_expiry(body.expires_in),
    )
    server.metrics.writes.labels("create").inc()
    caller.touch("write", record.session)
    return info_of(record)


@router.get("", summary="List sessions, the latest first")
async def list_sessions(
    server: ServerOf,
    caller: CallerOf,
    label: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    search: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    user: Annotated[str | None, Query(pattern=f"^{NAME_PATTERN}$")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    after: Annotated[str | None, Query(max_length=500)] = None,
) -> SessionList:
    """Lists the tenant's sessions, by label or by a part of it, or a user's."""
    page = await asyncio.to_thread(
        server.store.list, caller.tenant, label=label, search=search, user=user, limit=limit, after=after
    )
    return SessionList(data=[info_of(record) for record in page.sessions], after=page.after)


@router.get("/{session}", summary="A session, and how full its memory is")
async def get(session: Session, server: ServerOf, caller: CallerOf) -> SessionDetail:
    """A session's record, its number of kept versions, and the norms of its memory."""
    return detail_of(*await asyncio.to_thread(server.store.survey, caller.tenant, session))


@router.patch("/{session}", summary="Change a session's label, user or expiry")
async def change(session: Session, body: ChangeSession, server: ServerOf, caller: CallerOf) -> SessionInfo:
    """Changes what is given; an explicit null takes it away."""
    changes: Changes = {}
    if "label" in body.model_fields_set:
        changes["label"] = body.label
    if "user" in body.model_fields_set:
        changes["user"] = body.user
    if "expires_in" in body.model_fields_set:
        changes["expires"] = _expiry(body.expires_in)
    return info_of(await asyncio.to_thread(server.store.change, caller.tenant, session, **changes))


@router.delete("/{session}", summary="Delete a session with all its versions and messages")
async def delete(session: Session, request: Request, server: ServerOf, caller: CallerOf) -> Deleted:
    """Deletes a session, once a turn that runs is over."""
    async with server.exclusively(caller.tenant, session, server.deadline(request)):
        await asyncio.to_thread(server.store.delete, caller.tenant, session)
    return Deleted(id=session, session=session)


@router.post("/{session}/observe", summary="Write a text or messages to memory, without an answer")
async def observe(
    session: Session, body: Observe, request: Request, server: ServerOf, caller: CallerOf
) -> dict[str, Any]:
    """Writes a text, in chunks, so that it may be longer than the model's positions; the session is made if need be."""
    options = MemoryOptions(session=session, roles=body.roles)
    messages = body.plain()
    written = await asyncio.to_thread(server.prompts.written, messages, body.roles)
    async with open_turn(server, caller, options, server.deadline(request)) as turn:
        report = await unless_disconnected(request, turn.write(written, "observe", messages))
    server.rates.charge(caller, report["written_tokens"])
    return report


@router.post("/{session}/fork", status_code=201, summary="Copy a session, as it is or as it was")
async def fork(
    session: Session, server: ServerOf, caller: CallerOf, body: Annotated[Fork, Body(default_factory=Fork)]
) -> SessionInfo:
    """Makes a new session from a version of this one."""
    record = await asyncio.to_thread(
        server.store.fork,
        caller.tenant,
        session,
        body.session,
        version=body.version,
        label=body.label,
        expires=_expiry(body.expires_in),
    )
    server.metrics.writes.labels("fork").inc()
    return info_of(record)


@router.post("/{session}/rollback", summary="Go back to an earlier memory")
async def rollback(
    session: Session, body: Rollback, request: Request, server: ServerOf, caller: CallerOf
) -> SessionInfo:
    """Undoes turns, or goes back to a version; the timeline keeps what was undone."""
    async with server.exclusively(caller.tenant, session, server.deadline(request)):
        await asyncio.to_thread(server.store.rollback, caller.tenant, session, version=body.version, turns=body.turns)
    server.metrics.writes.labels("rollback").inc()
    return info_of(await asyncio.to_thread(server.store.get, caller.tenant, session))


@router.post("/{session}/freeze", summary="Refuse writes from now on, or allow them again")
async def freeze(
    session: Session, server: ServerOf, caller: CallerOf, body: Annotated[Freeze, Body(default_factory=Freeze)]
) -> SessionInfo:
    """Freezes or unfreezes a session."""
    return info_of(await asyncio.to_thread(server.store.change, caller.tenant, session, frozen=body.frozen))


@router.get("/{session}/timeline", summary="A session's versions, the latest first")
async def timeline(
    session: Session,
    server: ServerOf,
    caller: CallerOf,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Number = None,
) -> Timeline:
    """The versions as far as they are kept."""
    found = await asyncio.to_thread(server.store.versions, caller.tenant, session, limit=limit, before=before)
    return Timeline(data=[version_of(version) for version in found])


@router.get("/{session}/messages", summary="The messages, if the server keeps them")
async def messages(
    session: Session,
    server: ServerOf,
    caller: CallerOf,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Number = None,
    version: Number = None,
) -> MessageLog:
    """The last messages that led to a version, oldest first."""
    found = await asyncio.to_thread(
        server.store.messages, caller.tenant, session, limit=limit, before=before, version=version
    )
    return MessageLog(kept=server.store.keep_messages, data=[message_of(message) for message in found])


@router.get("/{session}/memory", summary="A memory's matrices, and what a turn changed")
async def memory(
    session: Session, server: ServerOf, caller: CallerOf, version: Number = None, since: Number = None
) -> MemoryMatrices:
    """The matrices of a version (the last by default), and how far each is from those of version ``since``."""

    def read() -> MemoryMatrices:
        fingerprint = server.states.fingerprint
        found = server.store.load(caller.tenant, session, version, expect=fingerprint)
        earlier = None if since is None else server.store.load(caller.tenant, session, since, expect=fingerprint)
        before = None if earlier is None else server.states.unpack(earlier.state)
        return memory_of(found, server.states.unpack(found.state), since, before)

    return await asyncio.to_thread(read)


@router.get(
    "/{session}/export",
    summary="A session's memory, to keep or to move",
    response_model=Exported,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def export(
    session: Session,
    server: ServerOf,
    caller: CallerOf,
    version: Number = None,
    form: Annotated[Literal["signed", "file"], Query(alias="format")] = "signed",
) -> Any:
    """The memory as signed text, which this server takes back, or as the file that ``Session.load`` reads."""
    caller.touch("export", session)
    found = await asyncio.to_thread(server.store.load, caller.tenant, session, version)
    if form == "file":
        name = f'attachment; filename="{session.replace(":", "_")}.safetensors"'
        return Response(found.state, media_type="application/octet-stream", headers={"Content-Disposition": name})
    state = server.signer.sign(found.state, caller.tenant)
    return Exported(id=session, session=session, version=found.number, tokens_written=found.tokens, state=state)


@router.post(
    "/{session}/import",
    summary="Replace a session's memory",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": Import.model_json_schema()},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def import_state(session: Session, request: Request, server: ServerOf, caller: CallerOf) -> SessionInfo:
    """Puts an exported memory in the place of this one, as a new version, whichever adapter wrote this one.

    It is what an export gave: the JSON with its signed state, or the file of ``format=file`` as
    ``application/octet-stream``. The session is made if it is not there.
    """
    state = await _imported(request, server, caller)
    options = MemoryOptions(session=session, fresh=True)
    async with open_turn(server, caller, options, server.deadline(request)) as turn:
        await turn.commit(state, "import")
    return info_of(await asyncio.to_thread(server.store.get, caller.tenant, session))


async def _imported(request: Request, server: ServerOf, caller: CallerOf) -> MemoryState:
    """The memory in a request's body.

    Raises:
        RequestValidationError, ApiError, StateFileError: there is none.
    """
    data = await request.body()
    sent_as = request.headers.get("content-type", "").partition(";")[0].strip()
    if sent_as == "application/octet-stream":
        return server.states.unpack(data)
    if not data.lstrip().startswith(b"{"):
        raise ApiError(400, "The body is not a JSON object. Send a file as application/octet-stream.", "invalid_body")
    try:
        body = Import.model_validate_json(data)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        unreadable = errors[0]["type"] == "json_invalid"
        raise RequestValidationError(errors, body={} if unreadable else from_json(data)) from None
    return received_state(server, caller, body.state)


def _expiry(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
