"""What the routes of sessions answer, and how it is made of the store's records."""

from datetime import datetime
from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from deltamem.formats.state import unpack_state
from deltamem.state import MemoryState
from deltamem.store import SessionRecord, StoredMessage, Version, VersionInfo


class SessionInfo(BaseModel):
    """A session, without its memory; ``session`` is its name, and so is ``id``."""

    id: str
    session: str
    object: Literal["memory.session"] = "memory.session"
    version: int
    tokens_written: int
    label: str | None
    user: str | None
    frozen: bool
    fingerprint: str
    created: int
    updated: int
    expires: int | None
    forked_from: str | None


class SessionDetail(SessionInfo):
    """A session and how full its memory is: ``norms`` ``[layers][states]`` are Frobenius norms."""

    versions: int
    bytes: int
    norms: list[list[float]]


class SessionList(BaseModel):
    """A page of sessions."""

    object: Literal["list"] = "list"
    data: list[SessionInfo]
    after: str | None


class VersionItem(BaseModel):
    """A point of a session's timeline."""

    version: int
    parent: int | None
    origin: int | None
    kind: str
    tokens_written: int
    created: int


class Timeline(BaseModel):
    """A session's versions, the latest first."""

    object: Literal["list"] = "list"
    data: list[VersionItem]


class MessageItem(BaseModel):
    """A message of a session's log."""

    position: int
    version: int
    role: str
    content: str
    created: int


class MessageLog(BaseModel):
    """The last messages of a session, oldest first; empty where the operator keeps none."""

    object: Literal["list"] = "list"
    kept: bool
    data: list[MessageItem]


class MemoryMatrices(BaseModel):
    """A version's memory: ``states`` ``[layers][states][R][R]``, and its change since another version."""

    version: int
    since: int | None
    tokens_written: int
    states: list[list[list[list[float]]]]
    norms: list[list[float]]
    change: list[list[float]] | None


class Exported(BaseModel):
    """A memory, signed for its tenant."""

    id: str
    session: str
    version: int
    tokens_written: int
    state: str


class Deleted(BaseModel):
    """What was deleted."""

    id: str
    session: str
    deleted: Literal[True] = True


def info_of(record: SessionRecord) -> SessionInfo:
    """A session."""
    return SessionInfo(
        id=record.session,
        session=record.session,
        version=record.head,
        tokens_written=record.tokens,
        label=record.label,
        user=record.user,
        frozen=record.frozen,
        fingerprint=record.fingerprint,
        created=_seconds(record.created),
        updated=_seconds(record.updated),
        expires=None if record.expires is None else _seconds(record.expires),
        forked_from=None if record.origin is None else f"{record.origin[0]}@{record.origin[1]}",
    )


def detail_of(record: SessionRecord, head: Version, versions: int) -> SessionDetail:
    """A session with the norms of its memory, whichever adapter wrote it."""
    state, _ = unpack_state(head.state)
    return SessionDetail(
        **info_of(record).model_dump(), versions=versions, bytes=len(head.state), norms=_of_one_row(state.norms())
    )


def version_of(version: VersionInfo) -> VersionItem:
    """A point of a timeline."""
    return VersionItem(
        version=version.number,
        parent=version.parent,
        origin=version.origin,
        kind=version.kind,
        tokens_written=version.tokens,
        created=_seconds(version.created),
    )


def message_of(stored: StoredMessage) -> MessageItem:
    """A logged message."""
    return MessageItem(
        position=stored.position,
        version=stored.version,
        role=stored.message["role"],
        content=stored.message["content"],
        created=_seconds(stored.created),
    )


def memory_of(version: Version, state: MemoryState, since: int | None, before: MemoryState | None) -> MemoryMatrices:
    """A memory's numbers, and its distance from an earlier one."""
    return MemoryMatrices(
        version=version.number,
        since=since,
        tokens_written=version.tokens,
        states=torch.stack([matrices[0] for matrices in state.states]).tolist(),
        norms=_of_one_row(state.norms()),
        change=None if before is None else _of_one_row(state.diff(before)),
    )


def _of_one_row(values: Tensor) -> list[list[float]]:
    """``[L, 1, N]`` as lists ``[L][N]``."""
    rows: list[list[float]] = values[:, 0].tolist()
    return rows


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
