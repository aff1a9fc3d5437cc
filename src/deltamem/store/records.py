"""What a store gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal


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
        user: whose it is within the tenant, or ``None``.
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
    user: str | None
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
        user: whose the session is within the tenant, if it is made.
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
    user: str | None = None


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
class TenantLimits:
    """How much a tenant may ask for in all; ``None`` is no limit.

    Attributes:
        requests_per_minute: how many requests.
        tokens_per_minute: how many tokens, read and generated.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class KeyLimits(TenantLimits):
    """How much one API key may ask for; ``None`` means the server's own limits.

    Attributes:
        request_bytes: how large a request's body may be.
    """

    request_bytes: int | None = None


# What a key may do, each with what comes before it: ask, change sessions, and what concerns the tenant as a whole.
Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")


@dataclass(frozen=True)
class KeyRecord:
    """An API key, without the key.

    Attributes:
        id: its name for revoking it.
        tenant: whose sessions it opens.
        label: a line for people, or ``None``.
        hint: how the key begins.
        scope: what it may do: ``read``, ``write`` (and read) or ``admin`` (and write).
        limits: how much it may ask for.
        tenant_limits: how much all keys of the tenant may ask for together.
        created: when, in UTC; so are the other times.
        last_used: to the minute; ``None`` if never.
        revoked: when it was revoked; ``None`` while it is active.
    """

    id: str
    tenant: str
    label: str | None
    hint: str
    scope: Scope
    limits: KeyLimits
    tenant_limits: TenantLimits
    created: datetime
    last_used: datetime | None
    revoked: datetime | None


# What can be done to what a tenant has; admin is what concerns its keys and the store itself.
Action = Literal["read", "write", "export", "delete", "admin"]
ACTIONS: tuple[Action, ...] = ("read", "write", "export", "delete", "admin")


@dataclass(frozen=True)
class Act:
    """What someone did.

    Attributes:
        tenant: to whose; ``None`` for what concerns all of them.
        action: what.
        route: by which request of the server, or which command.
        status: the HTTP status of the answer; 200 for a command that did it.
        key: the API key's id; ``None`` on a server that needs none, and ``operator`` for a command.
        session: to which session, if to one.
        user: on behalf of which user, or to whose sessions.
        request_id: as in the server's log.
        created: when, in UTC.
    """

    tenant: str | None
    action: Action
    _: KW_ONLY
    route: str
    status: int = 200
    key: str | None = None
    session: str | None = None
    user: str | None = None
    request_id: str | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, kw_only=True)
class AuditEntry(Act):
    """An act in the audit log; a later one has a higher number."""

    number: int


@dataclass(frozen=True)
class Webhook:
    """Where a tenant wants to be told what was done.

    Attributes:
        id: what to call it when deleting it.
        tenant: whose.
        url: where.
        actions: of what.
        secret: what messages are signed with.
        created: when, in UTC.
    """

    id: str
    tenant: str
    url: str
    actions: tuple[Action, ...]
    secret: str = field(repr=False)
    created: datetime


@dataclass(frozen=True)
class NewKey:
    """A new key; you can read ``secret`` only here."""

    secret: str = field(repr=False)
    record: KeyRecord
