"""An opened store, and what its operator does with the sessions of all tenants."""

from datetime import datetime
from typing import Self

from sqlalchemy import delete, func, or_, select

from deltamem.store import copying, upkeep
from deltamem.store.checks import check_moment, check_name, check_number
from deltamem.store.database import Database
from deltamem.store.encryption import StateKeys
from deltamem.store.errors import InvalidError, NotFoundError, SchemaError
from deltamem.store.lookup import alive, now, of_user
from deltamem.store.records import StoreStats
from deltamem.store.schema import (
    VERSION,
    api_keys,
    check_version,
    found_version,
    lacks_indexes,
    metadata,
    prepare,
    rates,
    sessions,
    tenant_limits,
    webhooks,
)
from deltamem.store.search import drop_words


class Store:
    """A database with the tables of a store: how it is written, and what concerns all that is in it."""

    @classmethod
    def open(
        cls,
        url: str = "sqlite:///sessions.db",
        *,
        keys: StateKeys | None = None,
        keep_messages: bool = False,
        keep_versions: int | None = 20,
        timeout: float = 10.0,
        create: bool = True,
    ) -> Self:
        """Opens a database and creates its tables if needed.

        Args:
            url: ``sqlite:///file``, ``sqlite://`` (in memory, gone when closed) or
                ``postgresql://user@host/database``.
            keys: encrypts memories and messages; ``StateKeys.from_environment()`` reads them.
            keep_messages: whether the messages of commits are stored.
            keep_versions: how many of a session's last versions are kept; ``None`` keeps all.
            timeout: seconds that a call waits for another writer's lock.
            create: create the database's file and tables if there are none.

        Raises:
            NotFoundError: there is no store, and ``create`` is false.
            InvalidError: the URL is none of these, or ``keep_versions`` is not positive.
            SchemaError: a newer deltamem made the tables, or the file is not a database.
            UnavailableError: the database cannot be reached or written.
            ImportError: PostgreSQL's driver is not installed.
        """
        if keep_versions is not None and keep_versions < 1:
            raise InvalidError(f"keep_versions must be at least 1, or None for all: {keep_versions}.")
        database = Database(url, timeout=timeout, create=create)
        try:
            with database.read() as connection:
                found = found_version(connection)
                ready = found == VERSION and not lacks_indexes(connection)
            if found is None and not create:
                raise NotFoundError(f"{database.place} holds no store: check the database's name.")
            # Tables that are as they should be need no writer's lock.
            if not ready:
                with database.write() as connection:
                    prepare(connection)
        except BaseException:
            database.close()
            raise
        return cls(database, keys, keep_messages=keep_messages, keep_versions=keep_versions)

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

    def __exit__(self, *raised: object) -> None:
        self.close()

    def check(self) -> None:
        """Checks the version of the database's tables, and raises if the store is not ready to serve.

        Raises:
            SchemaError: the tables are gone, or were upgraded while this process ran.
        """
        with self.database.read() as connection:
            found = found_version(connection)
        if found is None:
            raise self.database.error(SchemaError, "{store} has lost its tables. Restore a backup.")
        check_version(found)

    def check_keys(self) -> None:
        """Makes sure that this process can read the store, and will not write plain text beside encrypted rows.

        A server checks this before it starts, and while it runs. Plain rows from before there were keys are not an
        error; :meth:`stats` counts them and :meth:`rekey` encrypts them.

        Raises:
            EncryptionError: rows are encrypted, and the store was opened without keys, without theirs, or with
                another key under the same id.
        """
        with self.database.read() as connection:
            upkeep.check_keys(connection, self._keys)

    def has_unreadable_plain_rows(self) -> bool:
        """Whether rows lie in plain text in a store that has keys, which refuses them until :meth:`rekey`."""
        if self._keys is None:
            return False
        with self.database.read() as connection:
            return upkeep.any_plain(connection)

    def stats(self, tenant: str | None = None) -> StoreStats:
        """How much is stored, for all tenants or one; it reads everything, so it takes a while."""
        if tenant is not None:
            check_name("tenant", tenant)
        with self.database.read() as connection:
            return upkeep.count(connection, tenant)

    def count(self) -> int:
        """How many sessions there are, of all tenants, without those that have expired."""
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(sessions).where(alive(now()))).scalar_one()

    def surplus(self, keep: int) -> int:
        """How many versions, of all tenants, are older than the last ``keep`` of their session."""
        with self.database.read() as connection:
            return upkeep.count_surplus(connection, check_number("keep", keep))

    def purge_expired(self, moment: datetime | None = None) -> int:
        """Deletes the expired sessions of all tenants, and returns how many there were.

        It works in small transactions beside running servers, which do it themselves every minute.
        """
        gone = upkeep.purge(self.database, check_moment(moment) or now())
        if gone:
            self.database.scrub()
        return gone

    def trim(self, keep: int) -> int:
        """Deletes all but the last ``keep`` versions of every session, of all tenants; returns how many.

        A server does so with each commit; use this for sessions that nobody writes to any more, after you told it to
        keep fewer. It works in small transactions beside running servers; you can stop and repeat it.
        """
        gone = upkeep.trim(self.database, check_number("keep", keep))
        if gone:
            self.database.scrub()
        return gone

    def rekey(self) -> int:
        """Encrypts every row that is not yet under the current key; returns how many there were.

        It works in small transactions beside servers that run with the same keys; you can stop and repeat it. Once it
        has returned, and every server has the new key first, you can remove the old keys.

        Raises:
            EncryptionError: the store was opened without keys, or a row cannot be decrypted.
        """
        rows = upkeep.rekey(self.database, self._keys)
        drop_words(self.database)
        self.database.scrub()
        return rows

    def copy_to(self, other: "Store") -> dict[str, int]:
        """Copies everything into an empty store, and returns how many rows there were by their table.

        Memories, messages, versions, API keys, limits, webhooks and the audit log come along; encrypted rows stay so,
        under the same keys. The other store has all of it or, after an error, nothing. What servers write to this
        store meanwhile is not in it, so stop them first.

        Raises:
            ExistsError: the other store holds something already.
            InvalidError: the other store is in memory.
        """
        return copying.copy(self.database, other.database)

    def delete_tenant(self, tenant: str) -> int:
        """Deletes everything of a tenant, API keys and limits too, and returns how many sessions there were."""
        check_name("tenant", tenant)
        with self.database.write() as connection:
            of_keys = select("key:" + api_keys.c.id).where(api_keys.c.tenant == tenant)
            of_tenant = or_(rates.c.whose == f"tenant:{tenant}", rates.c.whose.in_(of_keys))
            connection.execute(delete(rates).where(of_tenant))
            for table in (tenant_limits, webhooks, api_keys):
                connection.execute(delete(table).where(table.c.tenant == tenant))
            gone = connection.execute(delete(sessions).where(sessions.c.tenant == tenant)).rowcount
        self.database.scrub()
        return gone

    def delete_user(self, tenant: str, user: str) -> int:
        """Deletes every session of a tenant's user, and returns how many that were."""
        check_name("tenant", tenant)
        check_name("user", user)
        with self.database.write() as connection:
            gone = connection.execute(delete(sessions).where(sessions.c.tenant == tenant, of_user(user))).rowcount
        self.database.scrub()
        return gone

    def vacuum(self) -> None:
        """Writes the tables anew, without what was deleted. It needs as much space again, and writers wait.

        SQLite overwrites what is deleted anyway. PostgreSQL keeps it in its files until then, and in its own log until
        its segments are gone.
        """
        self.database.vacuum([table.name for table in metadata.sorted_tables])
