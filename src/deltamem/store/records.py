"""What a store gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class SessionRecord:
    """A session, without its memory.

    Attributes:
        tenant: whose it is.
        session: its name, unique within the tenant.
        head: the number of its current version.
        fingerprint: of the adapter that wrote the current version.
        tokens: how many tokens the current version has written.
        label: a line for people, or ``None``.
        frozen: whether writes are refused.
        created: when, in UTC; so are the other times.
        updated: when the current version was made.
        expires: when the session expires, or ``None``.
        origin: for a fork, the session and the version it was taken from.
    """

    tenant: str
    session: str
    head: int
    fingerprint: str
    tokens: int
    label: str | None
    frozen: bool
    created: datetime
    updated: datetime
    expires: datetime | None
    origin: tuple[str, int] | None


@dataclass(frozen=True)
class VersionInfo:
    """A point of a session's timeline.

    Attributes:
        number: 1 for the first, one more for each that follows; the head's is the highest.
        parent: the version that was the head before it; ``None`` for the first.
        origin: for a rollback, the version whose memory it restored.
        kind: ``create``, ``fork``, ``rollback``, or what the writer called it: ``turn``, ``observe``, …
        tokens: how many tokens the memory has written.
        fingerprint: of the adapter that wrote it.
        created: when, in UTC.
    """

    number: int
    parent: int | None
    origin: int | None
    kind: str
    tokens: int
    fingerprint: str
    created: datetime


@dataclass(frozen=True)
class Version(VersionInfo):
    """A version with its memory, the bytes that ``state_to_bytes`` made."""

    state: bytes = field(repr=False)


@dataclass(frozen=True)
class Commit:
    """A version to add after a session's head, for :meth:`SessionStore.commit`.

    Attributes:
        tenant: whose.
        session: which.
        parent: the version that the new memory was made from.
        state: the new memory.
        tokens: how many tokens it has written.
        kind: ``turn``, ``observe``, ``import``, ``forget``, or another word. After an import or a forget the log
            starts again, as the memory does.
        messages: what was said, as mappings that JSON can hold.
        fingerprint: the adapter's; ``None`` takes the previous version's. An import or a forget may change it.
        begin: an empty memory that the new one was made from, added before it in the same transaction; needs
            ``fingerprint``. With the parent 0 it is version 1 of a session that is made, after another parent a
            ``forget``.
    """

    tenant: str
    session: str
    _: KW_ONLY
    parent: int
    state: bytes = field(repr=False)
    tokens: int
    kind: str = "turn"
    messages: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    fingerprint: str | None = None
    begin: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Rewritten:
    """A turn of a new past, for :meth:`SessionStore.rewrite`.

    Attributes:
        kind: as a commit's.
        state: the memory after it.
        tokens: how many tokens that has written.
        messages: what was said.
        created: when it was said.
    """

    kind: str
    state: bytes = field(repr=False)
    tokens: int
    messages: Sequence[Mapping[str, Any]] = field(repr=False)
    created: datetime


@dataclass(frozen=True)
class StoredMessage:
    """A message of a session's log.

    Attributes:
        position: its number within the session; gaps are turns that were rolled back.
        version: the version it was committed with.
        message: the committed message: role, content, and anything else that the writer gave.
        created: when, in UTC.
    """

    position: int
    version: int
    message: Mapping[str, Any] = field(repr=False)
    created: datetime


@dataclass(frozen=True)
class Page:
    """Some of a tenant's sessions, and where the next page starts (``None`` after the last)."""

    sessions: tuple[SessionRecord, ...]
    after: str | None


@dataclass(frozen=True)
class StoreStats:
    """How much a store holds, of all tenants or of one.

    Attributes:
        schema_version: of the tables.
        tenants: how many have sessions.
        sessions: how many there are, the expired ones too.
        expired: how many of them have expired.
        versions: of all sessions.
        messages: of all sessions.
        state_bytes: of all versions' memories.
        message_bytes: of all messages.
        rows_by_key: versions and messages by the id of the key that encrypts them, ``None`` where none does.
        api_keys: how many API keys are active.
    """

    schema_version: int
    tenants: int
    sessions: int
    expired: int
    versions: int
    messages: int
    state_bytes: int
    message_bytes: int
    rows_by_key: Mapping[str | None, int]
    api_keys: int


@dataclass(frozen=True)
class KeyLimits:
    """What one API key may do; ``None`` means the server's own limits.

    Attributes:
        requests_per_minute: how many requests.
        tokens_per_minute: how many tokens, read and generated.
        request_bytes: how large a request's body may be.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    request_bytes: int | None = None


@dataclass(frozen=True)
class KeyRecord:
    """An API key, without the key.

    Attributes:
        id: its name for revoking it.
        tenant: whose sessions it opens.
        label: a line for people, or ``None``.
        hint: how the key begins.
        limits: what it may do.
        created: when, in UTC; so are the other times.
        last_used: to the minute; ``None`` if never.
        revoked: when it was revoked; ``None`` while it is active.
    """

    id: str
    tenant: str
    label: str | None
    hint: str
    limits: KeyLimits
    created: datetime
    last_used: datetime | None
    revoked: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A new key; you can read ``secret`` only here."""

    secret: str = field(repr=False)
    record: KeyRecord
