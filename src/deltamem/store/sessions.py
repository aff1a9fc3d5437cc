"""The store: the sessions of tenants, and what an operator does with all of them."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self, TypedDict, Unpack

from sqlalchemy import Connection, delete, func, or_, select, update

from deltamem.store import upkeep
from deltamem.store.checks import (
    check_fingerprint,
    check_label,
    check_moment,
    check_name,
    check_number,
    check_state,
    check_tokens,
    check_user,
)
from deltamem.store.database import Database
from deltamem.store.encryption import StateKeys
from deltamem.store.errors import (
    FingerprintError,
    FrozenError,
    InvalidError,
    NotFoundError,
    SchemaError,
    StoreError,
    UnavailableError,
)
from deltamem.store.lookup import (
    Order,
    alive,
    find,
    label_columns,
    lock,
    lock_for_version,
    not_found,
    now,
    of_user,
    page,
    place_of,
)
from deltamem.store.messages import (
    all_messages,
    append_messages,
    check_messages,
    drop_unreachable,
    numbered,
    previous_message,
    read_messages,
)
from deltamem.store.records import (
    Commit,
    Page,
    Rewritten,
    SessionRecord,
    StoredMessage,
    StoreStats,
    Version,
    VersionInfo,
)
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
    versions,
    webhooks,
)
from deltamem.store.search import Told, drop_words, find_by_words, keep_vectors, kept_vectors
from deltamem.store.versions import (
    INFO,
    WHOLE,
    Rules,
    add,
    advance,
    begin,
    drop_versions,
    first_version,
    load_row,
    move_head,
    no_version,
    read_end,
    read_version,
    replace_versions,
    version_before,
    version_info,
    whole_version,
    write_version,
)

_log = logging.getLogger(__name__)


class Changes(TypedDict, total=False):
    """What you can change about a session.

    Attributes:
        label: a line for people, or none.
        user: whose it is within the tenant, or nobody's.
        expires: when the session expires; ``None`` for never.
        frozen: whether writes are refused.
    """

    label: str | None
    user: str | None
    expires: datetime | None
    frozen: bool


class SessionStore:
    """Sessions in a database, SQLite or PostgreSQL, used by any number of threads and processes.

    Once a method returns, its change is durable. Every method works within one tenant, and another tenant's
    data looks as if it did not exist. Memories are opaque bytes, as ``state_to_bytes`` makes them.
    Any method may raise :class:`UnavailableError` (locked, full, not reachable: nothing was written, and the
    same store works again once that is over) and :class:`InvalidError` (a malformed name or argument).

    Make one with :meth:`open`, and close it, or use it in a ``with`` statement.
    """

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
            keep_messages: whether the messages given to :meth:`commit` are stored.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create(
        self,
        tenant: str,
        session: str | None = None,
        *,
        fingerprint: str,
        state: bytes,
        tokens: int = 0,
        label: str | None = None,
        user: str | None = None,
        expires: datetime | None = None,
    ) -> SessionRecord:
        """A new session with its first version.

        Args:
            tenant: whose it is.
            session: its name; a random one by default.
            fingerprint: of the adapter that ``state`` belongs to.
            state: its memory, empty or not.
            tokens: how many tokens that memory has written.
            label: a line for people, stored as plain text.
            user: whose it is within the tenant; what is exported and deleted of a user are these sessions.
            expires: when the session expires; never by default.

        Raises:
            ExistsError: the tenant has a session of that name.
        """
        place = place_of(tenant, session or uuid.uuid4().hex)
        version = first_version(
            "create", check_state(state), check_tokens(tokens), check_fingerprint(fingerprint), now()
        )
        with self.database.write() as connection:
            begin(connection, self._keys, place, version, label=label, user=user, expires=expires)
            return find(connection, place)

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
        user: str | None = None,
        limit: int = 50,
        after: str | None = None,
        order: Order = "updated",
    ) -> Page:
        """A tenant's sessions, the latest first.

        Args:
            tenant: whose.
            label: only those with exactly this label.
            search: only those whose name or label holds this text, in any case.
            user: only those of this user.
            limit: how many, up to 1000.
            after: the ``after`` of the page before.
            order: by ``updated``, as people look for them; or by ``created``, so that a session written
                between two pages cannot move from one to the other.
        """
        check_name("tenant", tenant)
        label, search, user = check_label(label), check_label(search), check_user(user)
        with self.database.read() as connection:
            return page(
                connection, tenant, label=label, search=search, user=user, limit=limit, after=after, order=order
            )

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

    def whole(
        self, tenant: str, session: str
    ) -> tuple[SessionRecord, tuple[Version, ...], tuple[StoredMessage, ...]] | None:
        """A session's record, every kept version with its memory, and every kept message; ``None`` if it is not there.

        Messages of turns that were rolled back are among them, as long as they are kept.

        Raises:
            EncryptionError: something cannot be decrypted.
        """
        place = place_of(tenant, session)
        wanted = WHOLE.where(place.within(versions)).order_by(versions.c.number)
        with self.database.read() as connection:
            try:
                record = find(connection, place)
            except NotFoundError:
                return None
            found = tuple(whole_version(self._keys, place, row) for row in connection.execute(wanted))
            return record, found, tuple(all_messages(connection, self._keys, place))

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
            expect: the fingerprint of the adapter that will use it.
            writable: refuse a session that is frozen.

        Raises:
            NotFoundError: the session or the version is not there.
            FrozenError: the session is frozen, and ``writable`` is set.
            FingerprintError: the memory belongs to another adapter than the expected one.
            EncryptionError: the memory cannot be decrypted.
        """
        place = place_of(tenant, session)
        number = None if version is None else check_number("version", version)
        with self.database.read() as connection:
            row = load_row(connection, place, number)
            if row is None:
                head = find(connection, place).head
                raise no_version(connection, place, number or head)
        if writable and row.frozen:
            raise FrozenError(f"Session {session!r} is frozen: read it without writing, unfreeze it, or fork it.")
        found = whole_version(self._keys, place, row)
        if expect is not None and found.fingerprint != expect:
            raise FingerprintError(
                f"The memory of session {session!r} was written by another adapter ({found.fingerprint[:12]}…) than "
                f"the one in use ({expect[:12]}…), which cannot read it. Use the adapter that wrote it, or "
                "have the session forget it, to start fresh."
            )
        return found

    def versions(
        self, tenant: str, session: str, *, limit: int = 100, before: int | None = None
    ) -> tuple[VersionInfo, ...]:
        """The kept part of the session's timeline, latest first.

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

        Messages of rolled-back turns are not among them; a version that they led to still has them.
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

    def search(
        self, tenant: str, sessions: Sequence[str], words: str, *, told: Told, limit: int, most: int = 10_000
    ) -> Sequence[tuple[str, StoredMessage, float]] | None:
        """The messages that PostgreSQL's full text finds in some sessions' logs, ranked by BM25, the best first.

        ``None`` where texts cannot be searched in the database: in SQLite, and where they are encrypted.

        Args:
            tenant: whose sessions.
            sessions: which; one that is not there has no messages.
            words: what is looked for.
            told: the words of a message; none if it is not to be found. They are kept with it from then on.
            limit: how many.
            most: how many messages of each log, the last ones, are gone through.
        """
        check_name("tenant", tenant)
        if self.database.is_sqlite or self._keys is not None:
            return None
        return find_by_words(self.database, tenant, sessions, words, told=told, limit=limit, most=most)

    def vectors(self, tenant: str, session: str) -> dict[int, bytes]:
        """The vectors of a session's messages that :meth:`keep_vectors` kept, by the messages' positions.

        Raises:
            EncryptionError: one cannot be decrypted.
        """
        with self.database.read() as connection:
            return kept_vectors(connection, self._keys, place_of(tenant, session))

    def keep_vectors(self, tenant: str, session: str, made: Sequence[tuple[StoredMessage, bytes]]) -> None:
        """Keeps vectors of messages, encrypted as these are, until the message goes or gets another vector."""
        keep_vectors(self.database, self._keys, place_of(tenant, session), made)

    def commit(self, commit: Commit) -> Version:
        """Adds a version after the head, and its messages if the store keeps them, in one transaction.

        Raises:
            NotFoundError: the session is not there.
            ConflictError: ``parent`` is no longer the head, or the new session exists already; nothing was changed.
            FrozenError: the session is frozen.
            FingerprintError: a turn was made with another adapter than the version before it.
        """
        with self.database.write() as connection:
            return add(connection, self._rules, commit)

    def commit_all(self, commits: Sequence[Commit]) -> Sequence[Version | Exception]:
        """Several commits in one transaction, which waits for the disk once.

        Each is stored whole or not at all, and a refused one does not affect the others. None is durable before all
        are.

        Returns:
            for each its version, or what :meth:`commit` would have raised.
        """
        if len(commits) > 1:
            try:
                with self.database.write() as connection:
                    return [self._attempt(connection, one) for one in commits]
            except UnavailableError as error:
                return [UnavailableError(str(error), error.public) for _ in commits]
            except Exception as error:
                # Nothing was written. What is wrong with one is not the others' affair, so each goes by itself.
                _log.warning("%d commits failed together and are done one by one", len(commits), exc_info=error)
        return [self._alone(one) for one in commits]

    def fork(
        self,
        tenant: str,
        session: str,
        new: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        expires: datetime | None = None,
    ) -> SessionRecord:
        """A new session of the same user that begins as a copy of another: its memory, and its log up to there.

        Neither depends on the other afterwards.

        Args:
            tenant: whose.
            session: which.
            new: the new session's name; a random one by default.
            version: from which version; the head by default.
            label: the new session's label.
            expires: when the new session expires.

        Raises:
            NotFoundError: the session or the version is not there.
            ExistsError: the tenant has a session of the new name.
            EncryptionError: the memory or the log cannot be decrypted.
        """
        source, place = place_of(tenant, session), place_of(tenant, new or uuid.uuid4().hex)
        with self.database.write() as connection:
            row = lock(connection, source)
            number = row.head if version is None else check_number("version", version)
            found, tail = read_version(connection, self._keys, source, number)
            log = read_messages(connection, self._keys, source, tail)
            copy = first_version("fork", found.state, found.tokens, found.fingerprint, now(), found.number)
            copied = [replace(message, position=i, version=1) for i, message in enumerate(log, 1)]
            origin = (session, found.number)
            begin(
                connection,
                self._keys,
                place,
                copy,
                label=label,
                user=row.user,
                expires=expires,
                log=copied,
                origin=origin,
            )
            return find(connection, place)

    def rollback(
        self,
        tenant: str,
        session: str,
        *,
        version: int | None = None,
        turns: int | None = None,
        parent: int | None = None,
    ) -> Version:
        """Restores an earlier memory as a new version; what it undoes stays in the timeline.

        Args:
            tenant: whose.
            session: which.
            version: the version to restore; or
            turns: how many turns to undo, with whatever was observed since.
            parent: the version that you expect to be the head; if it is not, you get an error.

        Raises:
            NotFoundError: the session or the version is not there.
            InvalidError: not exactly one of ``version`` and ``turns`` was given, or fewer turns are kept.
            FrozenError: the session is frozen.
            ConflictError: ``parent`` is not the head.
            EncryptionError: the memory cannot be decrypted.
        """
        place = place_of(tenant, session)
        if (version is None) == (turns is None):
            raise InvalidError("Roll back either to a version or by a number of turns.")
        check_number("turns" if version is None else "version", turns if version is None else version)
        with self.database.write() as connection:
            row = lock_for_version(connection, place, parent)
            number = version or version_before(connection, place, row.head, turns or 0)
            found, tail = read_version(connection, self._keys, place, number)
            again = replace(found, number=row.head + 1, parent=row.head, origin=number, kind="rollback", created=now())
            advance(connection, self._rules, place, again, tail, positions=row.positions)
        return again

    def rewrite(
        self,
        tenant: str,
        session: str,
        *,
        parent: int,
        base: int | None,
        turns: Sequence[Rewritten],
        empty: bytes,
    ) -> Version:
        """Replaces what came since a version by another past, in one transaction; the old past is gone for good.

        The versions after ``base`` and the messages that only they held are deleted.

        Args:
            tenant: whose.
            session: which.
            parent: the version that you expect to be the head.
            base: the last version that stays, and the start of the new ones; with ``None`` nothing stays, and the
                new past starts with ``empty``.
            turns: what follows it.
            empty: an empty memory.

        Raises:
            NotFoundError: the session or the version is not there.
            FrozenError: the session is frozen.
            ConflictError: ``parent`` is not the head.
            EncryptionError: the memory cannot be decrypted.
        """
        place = place_of(tenant, session)
        check_state(empty)
        for turn in turns:
            check_messages(turn.messages)
        with self.database.write() as connection:
            row = lock_for_version(connection, place, check_number("parent", parent))
            _, fingerprint = read_end(connection, place, parent)
            if base is None:
                version, tail = Version(row.head + 1, None, None, "forget", 0, fingerprint, now(), empty), None
            else:
                found, tail = read_version(connection, self._keys, place, check_number("base", base))
                version = replace(found, number=row.head + 1, parent=base, origin=base, kind="rollback", created=now())
            write_version(connection, self._keys, place, version, tail)
            positions = row.positions
            for turn in turns:
                version = replace(
                    version,
                    number=version.number + 1,
                    parent=version.number,
                    origin=None,
                    kind=turn.kind,
                    tokens=turn.tokens,
                    state=check_state(turn.state),
                    created=now(),
                )
                placed = numbered(turn.messages, after=positions, version=version.number, created=turn.created)
                tail = append_messages(connection, self._keys, place, placed, tail)
                positions += len(placed)
                write_version(connection, self._keys, place, version, tail)
            replace_versions(connection, place, after=base or 0, last=row.head)
            move_head(connection, self._rules, place, version, positions=positions)
        self.database.scrub()
        return version

    def change(self, tenant: str, session: str, **changes: Unpack[Changes]) -> SessionRecord:
        """Changes the given fields together or not at all: ``label``, ``user``, ``expires``, ``frozen``.

        Raises:
            NotFoundError: the session is not there.
            InvalidError: a value is not valid.
        """
        place = place_of(tenant, session)
        if "label" in changes:
            check_label(changes["label"])
        if "user" in changes:
            check_user(changes["user"])
        if "expires" in changes:
            changes["expires"] = check_moment(changes["expires"])
        values = {**changes, **(label_columns(changes["label"]) if "label" in changes else {})}
        with self.database.write() as connection:
            lock(connection, place)
            record = find(connection, place)
            if values:
                connection.execute(update(sessions).where(place.within(sessions)).values(values))
        return replace(record, **changes)

    def prune(self, tenant: str, session: str, keep: int = 1) -> SessionRecord:
        """Deletes all but the last ``keep`` versions, and the messages that only those held.

        After a commit of the kind ``forget`` this makes the forgotten irrecoverable.

        Raises:
            NotFoundError: the session is not there.
        """
        place = place_of(tenant, session)
        check_number("keep", keep)
        with self.database.write() as connection:
            head = lock(connection, place).head
            drop_versions(connection, place, head - keep + 1)
            drop_unreachable(connection, place)
            record = find(connection, place)
        self.database.scrub()
        return record

    def delete(self, tenant: str, session: str) -> None:
        """Deletes a session, frozen or not, with all its versions and messages.

        Raises:
            NotFoundError: it is not there.
        """
        place = place_of(tenant, session)
        with self.database.write() as connection:
            if not connection.execute(delete(sessions).where(place.within(sessions))).rowcount:
                raise not_found(session)
        self.database.scrub()

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

    def _alone(self, commit: Commit) -> Version | Exception:
        try:
            return self.commit(commit)
        except Exception as error:
            return error

    def _attempt(self, connection: Connection, commit: Commit) -> Version | Exception:
        try:
            with connection.begin_nested():
                return add(connection, self._rules, commit)
        except StoreError as error:
            return error

    @property
    def _rules(self) -> Rules:
        return Rules(self._keys, self.keep_messages, self.keep_versions)
