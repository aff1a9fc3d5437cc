"""The tables, and how a database comes to have those of this version."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    and_,
    bindparam,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.schema import CreateColumn

from deltamem.store.errors import SchemaError

metadata = MetaData()

# Names compare by their bytes in both databases, so that both sort alike.
_Name = String(128).with_variant(String(128, collation="C"), "postgresql")


class Timestamp(TypeDecorator[datetime]):
    """A moment in UTC, aware in Python and without a zone in the database, which SQLite has none of."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC, without the zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With the zone again."""
        return None if value is None else value.replace(tzinfo=UTC)


def _key(which: str) -> tuple[Column[Any], ...]:
    """The key of what sessions have many of: whose session, which session, and which of its rows."""
    return (
        Column("tenant", _Name, primary_key=True),
        Column("session", _Name, primary_key=True),
        Column(which, Integer, primary_key=True, autoincrement=False),
    )


def _of(table: str, *key: str) -> ForeignKeyConstraint:
    """Whose rows these are, by the columns that both tables have; they go with it."""
    return ForeignKeyConstraint(key, [f"deltamem_{table}.{name}" for name in key], ondelete="CASCADE")


schema_version = Table("deltamem_schema", metadata, Column("version", Integer, nullable=False))

sessions = Table(
    "deltamem_sessions",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("session", _Name, primary_key=True),
    Column("head", Integer, nullable=False),
    # How many positions of the log have been given out.
    Column("positions", Integer, nullable=False),
    Column("label", Text),
    Column("label_folded", Text),
    # Whose it is within the tenant; what is exported and deleted of a user are these.
    Column("user", _Name),
    Column("frozen", Boolean, nullable=False),
    Column("created", Timestamp, nullable=False),
    Column("updated", Timestamp, nullable=False),
    Column("expires", Timestamp),
    Column("origin_session", _Name),
    Column("origin_version", Integer),
    Index("deltamem_sessions_updated", "tenant", "updated", "session"),
    Index("deltamem_sessions_created", "tenant", "created", "session"),
    Index("deltamem_sessions_expires", "expires"),
    Index("deltamem_sessions_user", "tenant", "user", "session"),
)

versions = Table(
    "deltamem_versions",
    metadata,
    *_key("number"),
    Column("parent", Integer),
    Column("origin", Integer),
    Column("kind", String(32), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("fingerprint", String(128), nullable=False),
    # The last message of the log as this version sees it; each message names the one before.
    Column("tail", Integer),
    Column("created", Timestamp, nullable=False),
    Column("key_id", String(64)),
    Column("state", LargeBinary, nullable=False),
    _of("sessions", "tenant", "session"),
)

messages = Table(
    "deltamem_messages",
    metadata,
    *_key("position"),
    Column("previous", Integer),
    Column("version", Integer, nullable=False),
    Column("created", Timestamp, nullable=False),
    Column("key_id", String(64)),
    Column("body", LargeBinary, nullable=False),
    _of("sessions", "tenant", "session"),
)


# What searches need of messages; deltamem.store.search makes it.
message_words = Table(
    "deltamem_message_words",
    metadata,
    *_key("position"),
    # SQLite keeps none.
    Column("words", Text().with_variant(TSVECTOR(), "postgresql"), nullable=False),
    _of("messages", "tenant", "session", "position"),
)

message_vectors = Table(
    "deltamem_message_vectors",
    metadata,
    *_key("position"),
    Column("key_id", String(64)),
    Column("body", LargeBinary, nullable=False),
    _of("messages", "tenant", "session", "position"),
)

api_keys = Table(
    "deltamem_api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", _Name, nullable=False, index=True),
    Column("label", Text),
    Column("hint", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("request_bytes", Integer),
    Column("scope", String(8), nullable=False, server_default="write"),
    Column("created", Timestamp, nullable=False),
    Column("last_used", Timestamp),
    Column("revoked", Timestamp),
)


tenant_limits = Table(
    "deltamem_tenant_limits",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
)

# What is left of this minute's, by whose it is: key:… or tenant:….
rates = Table(
    "deltamem_rates",
    metadata,
    Column("whose", String(160), primary_key=True),
    Column("requests", Double, nullable=False),
    Column("tokens", Double, nullable=False),
    Column("filled", Timestamp, nullable=False),
)

audit = Table(
    "deltamem_audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("created", Timestamp, nullable=False, index=True),
    # None for what concerns all of them.
    Column("tenant", _Name, index=True),
    Column("key", String(64)),
    Column("action", String(16), nullable=False),
    Column("session", _Name),
    Column("user", _Name),
    Column("route", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_id", String(64)),
    sqlite_autoincrement=True,
)


webhooks = Table(
    "deltamem_webhooks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", _Name, nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("actions", Text, nullable=False),
    Column("secret", String(64), nullable=False),
    Column("created", Timestamp, nullable=False),
)

deliveries = Table(
    "deltamem_deliveries",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("webhook", ForeignKey("deltamem_webhooks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", Timestamp, nullable=False, index=True),
    sqlite_autoincrement=True,
)


class _Guard(NamedTuple):
    """What has a database refuse to change a table's rows, and what lifts and restores that within a transaction."""

    make: tuple[str, ...]
    lift: str
    restore: str


_SQLITE_GUARD = (
    "CREATE TRIGGER deltamem_audit_{0} BEFORE {0} ON deltamem_audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
)
AUDIT_GUARD = {
    "sqlite": _Guard(
        (_SQLITE_GUARD.format("UPDATE"), _SQLITE_GUARD.format("DELETE")),
        "DROP TRIGGER deltamem_audit_DELETE",
        _SQLITE_GUARD.format("DELETE"),
    ),
    "postgresql": _Guard(
        (
            "CREATE OR REPLACE FUNCTION deltamem_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
            "CREATE TRIGGER deltamem_audit_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON deltamem_audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION deltamem_audit_refuse()",
        ),
        "ALTER TABLE deltamem_audit DISABLE TRIGGER deltamem_audit_guard",
        "ALTER TABLE deltamem_audit ENABLE TRIGGER deltamem_audit_guard",
    ),
}
for _dialect, _guard in AUDIT_GUARD.items():
    for _statement in _guard.make:
        event.listen(audit, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]


class Place(NamedTuple):
    """Which session: the first two columns of its rows in every table."""

    tenant: str
    session: str

    def within(self, table: Table) -> ColumnElement[bool]:
        """The condition for this session's rows."""
        return and_(table.c.tenant == self.tenant, table.c.session == self.session)

    def row(self) -> dict[str, Any]:
        """The two columns, for an insert."""
        return self._asdict()

    def named(self, **values: Any) -> dict[str, Any]:
        """The values for a statement with the condition :func:`named_session`, and further ones."""
        return {"at_tenant": self.tenant, "at_session": self.session, **values}


def named_session(table: Table) -> ColumnElement[bool]:
    """The condition for the rows of the session that :meth:`Place.named` names when the statement runs.

    What every turn runs is written with it, once for all turns: SQLAlchemy takes longer to build a statement than
    SQLite to run it.
    """
    return and_(table.c.tenant == bindparam("at_tenant"), table.c.session == bindparam("at_session"))


# Which keys encrypt rows is asked when a server starts and while it runs, of however many rows there are. The indexes
# came later than the tables, and an older deltamem does not mind them.
KEY_INDEXES = {
    versions.name: Index("deltamem_versions_key", versions.c.key_id),
    messages.name: Index("deltamem_messages_key", messages.c.key_id),
    message_vectors.name: Index("deltamem_message_vectors_key", message_vectors.c.key_id),
}


def _scopes_and_users(connection: Connection) -> None:
    """Keys that were there may do what they could do before."""
    for table, name in ((api_keys, "scope"), (sessions, "user")):
        column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
        connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column}"))
    by_user = next(index for index in sessions.indexes if index.name == "deltamem_sessions_user")
    by_user.create(connection, checkfirst=True)


def _new_tables(connection: Connection) -> None:
    """The tables that came later."""
    metadata.create_all(connection)


# Entry i takes a database from version i + 1 to version i + 2.
UPGRADES: tuple[Callable[[Connection], None], ...] = (_scopes_and_users, _new_tables, _new_tables)
VERSION = 1 + len(UPGRADES)


def lacks_indexes(connection: Connection) -> bool:
    """Whether the tables were made before some of their indexes."""
    found = inspect(connection)
    return any(
        index.name not in [have["name"] for have in found.get_indexes(table)] for table, index in KEY_INDEXES.items()
    )


def found_version(connection: Connection) -> int | None:
    """The version of the tables in a database; ``None`` if it has none of them.

    Raises:
        SchemaError: the version cannot be made out.
    """
    if not inspect(connection).has_table(schema_version.name):
        return None
    found = connection.execute(select(schema_version.c.version)).scalars().all()
    if len(found) != 1 or found[0] < 1:
        raise SchemaError(f"{schema_version.name} holds {found} and should hold one number: restore a backup.")
    return int(found[0])


def prepare(connection: Connection, upgrades: Sequence[Callable[[Connection], None]] = UPGRADES) -> None:
    """Makes the tables, or brings those of an older version up to date, in the caller's write transaction.

    Raises:
        SchemaError: the tables are of a newer version.
    """
    if connection.dialect.name == "postgresql":
        # SQLite's write lock already keeps two processes from making the tables at once.
        connection.execute(text("SELECT pg_advisory_xact_lock(7310093)"))
    wanted = 1 + len(upgrades)
    found = found_version(connection)
    if found is None:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=wanted))
        return
    check_version(found, wanted)
    for upgrade in upgrades[found - 1 :]:
        upgrade(connection)
    for index in KEY_INDEXES.values():
        index.create(connection, checkfirst=True)
    connection.execute(update(schema_version).values(version=wanted))


def check_version(found: int, wanted: int = VERSION) -> None:
    """Raises a :class:`SchemaError` for tables that only a newer deltamem understands."""
    if found > wanted:
        raise SchemaError(
            f"The store's tables have version {found}; this deltamem knows up to version {wanted}. Update deltamem."
        )
