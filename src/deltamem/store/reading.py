"""The reading half of a store."""

from types import TracebackType
from typing import Self

from sqlalchemy import and_, bindparam, func, select

from deltamem.store.checks import check_label, check_name, check_number
from deltamem.store.encryption import StateKeys
from deltamem.store.engine import Database
from deltamem.store.errors import FingerprintError, FrozenError, SchemaError
from deltamem.store.messages import previous_message, read_messages
from deltamem.store.records import Page, SessionRecord, StoredMessage, StoreStats, Version, VersionInfo
from deltamem.store.rows import LIVING, Order, alive, find, now, page
from deltamem.store.schema import Place, check_version, found_version, sessions, versions
from deltamem.store.statistics import count
from deltamem.store.trimming import count_surplus
from deltamem.store.versions import INFO, WHOLE, no_version, read_end, read_version, version_info, whole_version

# A version with its memory, the head unless ``number`` says which.
_LOADED = (
    WHOLE.add_columns(sessions.c.frozen)
    .join_from(
        sessions,
        versions,
        and_(
            versions.c.tenant == sessions.c.tenant,
            versions.c.session == sessions.c.session,
            versions.c.number == func.coalesce(bindparam("number", type_=versions.c.number.type), sessions.c.head),
        ),
    )
    .where(LIVING)
)


class Reading:
    """What can be asked of a store; :class:`SessionStore` is one, and writes too."""

    def __init__(
        self, database: Database, keys: StateKeys | None, *, keep_messages: bool, keep_versions: int | None
    ) -> None:
        self.database = database
        self.keep_messages = keep_messages
        self.keep_versions = keep_versions
        self._keys = keys

    def close(self) -> None:
        """Closes the connections. Later calls are refused."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self) -> None:
        """Asks the database for the version of its tables: raises if the store is not ready to serve.

        Raises:
            SchemaError: the tables are gone, or were made newer while this process ran.
        """
        with self.database.read() as connection:
            found = found_version(connection)
        if found is None:
            raise self.database.error(SchemaError, "{store} has lost its tables. Restore a backup.")
        check_version(found)

    def stats(self, tenant: str | None = None) -> StoreStats:
        """How much is stored, of all tenants or of one; it goes through everything, so it takes a while."""
        if tenant is not None:
            check_name("tenant", tenant)
        with self.database.read() as connection:
            return count(connection, tenant)

    def surplus(self, keep: int) -> int:
        """How many versions, of all tenants, are older than the last ``keep`` of their session."""
        with self.database.read() as connection:
            return count_surplus(connection, check_number("keep", keep))

    def get(self, tenant: str, session: str) -> SessionRecord:
        """A session's record.

        Raises:
            NotFoundError: it is not there.
        """
        place = place_of(tenant, session)
        with self.database.read() as connection:
            return find(connection, place)

    def list(
        self,
        tenant: str,
        *,
        label: str | None = None,
        search: str | None = None,
        limit: int = 50,
        after: str | None = None,
        order: Order = "updated",
    ) -> Page:
        """A tenant's sessions, the latest first.

        Args:
            tenant: whose.
            label: only those with exactly this label.
            search: only those whose label holds this text, in any case.
            limit: how many, up to 1000.
            after: the ``after`` of the page before.
            order: by ``updated``, as people look for them; or by ``created``, where a session that is
                written between two pages cannot move from one to the other.
        """
        check_name("tenant", tenant)
        label, search = check_label(label), check_label(search)
        with self.database.read() as connection:
            return page(connection, tenant, label=label, search=search, limit=limit, after=after, order=order)

    def count(self) -> int:
        """How many sessions there are, of all tenants, without those that have expired."""
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(sessions).where(alive(now()))).scalar_one()

    def survey(self, tenant: str, session: str) -> tuple[SessionRecord, Version, int]:
        """A session's record, its current version, and how many versions are kept, all of one moment.

        Raises:
            NotFoundError: the session is not there.
            EncryptionError: the memory cannot be decrypted.
        """
        place = place_of(tenant, session)
        kept = select(func.count()).select_from(versions).where(place.within(versions))
        with self.database.read() as connection:
            record = find(connection, place)
            head, _ = read_version(connection, self._keys, place, record.head)
            return record, head, connection.execute(kept).scalar_one()

    def load(
        self,
        tenant: str,
        session: str,
        version: int | None = None,
        *,
        expect: str | None = None,
        writable: bool = False,
    ) -> Version:
        """A version with its memory; the head by default.

        Args:
            tenant: whose.
            session: which.
            version: which version.
            expect: the fingerprint of the adapter that is going to use it.
            writable: refuse a session that is frozen.

        Raises:
            NotFoundError: the session or the version is not there.
            FrozenError: the session is frozen, and was asked for to be written.
            FingerprintError: the memory belongs to another adapter than the expected one.
            EncryptionError: the memory cannot be decrypted.
        """
        place = place_of(tenant, session)
        number = None if version is None else check_number("version", version)
        with self.database.read() as connection:
            row = connection.execute(_LOADED, place.named(moment=now(), number=number)).one_or_none()
            if row is None:
                head = find(connection, place).head
                raise no_version(connection, place, number or head)
        if writable and row.frozen:
            raise FrozenError(f"Session {session!r} is frozen: read it without writing, unfreeze it, or fork it.")
        found = whole_version(self._keys, place, row)
        if expect is not None and found.fingerprint != expect:
            raise FingerprintError(
                f"The memory of session {session!r} was written by another adapter ({found.fingerprint[:12]}…) than "
                f"the one in use ({expect[:12]}…) and means nothing to it. Use the adapter it was written with, or "
                "have the session forget it, to start fresh."
            )
        return found

    def versions(
        self, tenant: str, session: str, *, limit: int = 100, before: int | None = None
    ) -> tuple[VersionInfo, ...]:
        """The session's timeline as far as it is kept, the latest first.

        Args:
            tenant: whose.
            session: which.
            limit: how many.
            before: only versions below this number.

        Raises:
            NotFoundError: the session is not there.
        """
        place = place_of(tenant, session)
        wanted = (
            select(*INFO)
            .where(place.within(versions))
            .order_by(versions.c.number.desc())
            .limit(check_number("limit", limit))
        )
        if before is not None:
            wanted = wanted.where(versions.c.number < check_number("before", before))
        with self.database.read() as connection:
            find(connection, place)
            return tuple(version_info(row) for row in connection.execute(wanted))

    def messages(
        self,
        tenant: str,
        session: str,
        *,
        version: int | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> tuple[StoredMessage, ...]:
        """The last messages that led to a version (the head by default), oldest first.

        Those of turns that were rolled back are not among them; a version they led to still has them.
        A store that keeps no messages has none.

        Args:
            tenant: whose.
            session: which.
            version: the log as it was at this version.
            limit: how many.
            before: only messages before the one at this position.

        Raises:
            NotFoundError: the session or the version is not there.
            EncryptionError: a message cannot be decrypted.
        """
        place = place_of(tenant, session)
        limit = check_number("limit", limit)
        with self.database.read() as connection:
            head = find(connection, place).head
            if before is not None:
                tail = previous_message(connection, place, check_number("before", before))
            else:
                number = head if version is None else check_number("version", version)
                tail, _ = read_end(connection, place, number)
            return tuple(read_messages(connection, self._keys, place, tail, limit))


def place_of(tenant: str, session: str) -> Place:
    """Where the rows of a session are, if both names are ones.

    Raises:
        InvalidError: one is not.
    """
    return Place(check_name("tenant", tenant), check_name("session", session))
