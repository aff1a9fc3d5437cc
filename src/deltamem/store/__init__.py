"""Where sessions live: versioned memories of many tenants in SQLite or PostgreSQL, encrypted if wanted."""

from deltamem.extensions import how_to_install

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401
except ImportError:
    raise ImportError(f"The session store needs SQLAlchemy: {how_to_install('serve')}") from None

from deltamem.store.apikeys import ApiKeys
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
from deltamem.store.records import (
    Commit,
    KeyLimits,
    KeyRecord,
    NewKey,
    Page,
    Rewritten,
    SessionRecord,
    StoredMessage,
    StoreStats,
    Version,
    VersionInfo,
)
from deltamem.store.sessions import Changes, SessionStore

__all__ = [
    "NAME_PATTERN",
    "ApiKeys",
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
    "Page",
    "Rewritten",
    "SchemaError",
    "SessionRecord",
    "SessionStore",
    "StateKeys",
    "StoreError",
    "StoreStats",
    "StoredMessage",
    "UnavailableError",
    "Version",
    "VersionInfo",
]
