"""Where sessions live: versioned memories of many tenants in SQLite or PostgreSQL, encrypted if wanted."""

from deltamem.extensions import from_extra

with from_extra("serve", "The session store needs SQLAlchemy"):
    import sqlalchemy as _sqlalchemy  # noqa: F401

from deltamem.store.apikeys import ApiKeys
from deltamem.store.audit import AuditLog
from deltamem.store.checks import NAME_PATTERN
from deltamem.store.encryption import StateKeys
from deltamem.store.errors import (
    ConflictError,
    EncryptionError,
    ExistsError,
    FingerprintError,
    FrozenError,
    InvalidError,
    NotFoundError,
    SchemaError,
    StoreError,
    UnavailableError,
)
from deltamem.store.rates import Over, Rates
from deltamem.store.records import (
    ACTIONS,
    SCOPES,
    Act,
    Action,
    AuditEntry,
    Commit,
    KeyLimits,
    KeyRecord,
    NewKey,
    Page,
    Rewritten,
    Scope,
    SessionRecord,
    StoredMessage,
    StoreStats,
    TenantLimits,
    Version,
    VersionInfo,
    Webhook,
)
from deltamem.store.rights import export
from deltamem.store.sessions import Changes, SessionStore
from deltamem.store.webhooks import Webhooks

__all__ = [
    "ACTIONS",
    "NAME_PATTERN",
    "SCOPES",
    "Act",
    "Action",
    "ApiKeys",
    "AuditEntry",
    "AuditLog",
    "Changes",
    "Commit",
    "ConflictError",
    "EncryptionError",
    "ExistsError",
    "FingerprintError",
    "FrozenError",
    "InvalidError",
    "KeyLimits",
    "KeyRecord",
    "NewKey",
    "NotFoundError",
    "Over",
    "Page",
    "Rates",
    "Rewritten",
    "SchemaError",
    "Scope",
    "SessionRecord",
    "SessionStore",
    "StateKeys",
    "StoreError",
    "StoreStats",
    "StoredMessage",
    "TenantLimits",
    "UnavailableError",
    "Version",
    "VersionInfo",
    "Webhook",
    "Webhooks",
    "export",
]
