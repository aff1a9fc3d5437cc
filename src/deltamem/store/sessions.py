"""Where sessions live: tenants, sessions, and the versions of their memories."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Self

from sqlalchemy import Connection

from deltamem.store.checks import check_fingerprint, check_number, check_state, check_tokens
from deltamem.store.encryption import StateKeys
from deltamem.store.engine import Database
from deltamem.store.errors import InvalidError, NotFoundError, StoreError, UnavailableError
from deltamem.store.keeping import Keeping
from deltamem.store.messages import read_messages
from deltamem.store.reading import place_of
from deltamem.store.records import Commit, SessionRecord, Version
from deltamem.store.rows import find, lock, lock_for_version, now
from deltamem.store.schema import VERSION, found_version, prepare
from deltamem.store.versions import first_version, read_version, version_before
from deltamem.store.writing import Rules, add, advance, begin

_log = logging.getLogger(__name__)


class SessionStore(Keeping):
    """Sessions in a database, SQLite or PostgreSQL, used by any number of threads and processes.

    What a method has returned is durable. Every method works within one tenant, and what another tenant
    has looks as if it did not exist. Memories are opaque bytes, as ``state_to_bytes`` makes them.
    Any method may raise :class:`UnavailableError` (locked, full, out of reach: nothing was written, and the
    same store goes on when the cause is gone) and :class:`InvalidError` (a malformed name or argument).

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
        """Opens a database and makes its tables, if need be.

        Args:
            url: ``sqlite:///file``, ``sqlite://`` (in memory, gone when closed) or
                ``postgresql://user@host/database``.
            keys: encrypts memories and messages; ``StateKeys.from_environment()`` reads them.
            keep_messages: whether the messages given to :meth:`commit` are stored.
            keep_versions: how many of a session's last versions are kept; ``None`` keeps all.
            timeout: seconds that a call waits for another writer's lock.
            create: make the database's file and tables where there are none.

        Raises:
            NotFoundError: there is no store, and none is to be made.
            InvalidError: the URL is none of these, or ``keep_versions`` is not positive.
            SchemaError: the tables are those of a newer deltamem, or the file is no database.
            UnavailableError: the database cannot be reached or written.
            ImportError: PostgreSQL's driver is not installed.
        """
        if keep_versions is not None and keep_versions < 1:
            raise InvalidError(f"keep_versions must be at least 1, or None for all: {keep_versions}.")
        database = Database(url, timeout=timeout, create=create)
        try:
            with database.read() as connection:
                found = found_version(connection)
            if found is None and not create:
                raise NotFoundError(f"{database.place} holds no store: check the database's name.")
            # Tables that are as they should be need no writer's lock.
            if found != VERSION:
                with database.write() as connection:
                    prepare(connection)
        except BaseException:
            database.close()
            raise
        return cls(database, keys, keep_messages=keep_messages, keep_versions=keep_versions)

    def create(
        self,
        tenant: str,
        session: str | None = None,
        *,
        fingerprint: str,
        state: bytes,
        tokens: int = 0,
        label: str | None = None,
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
            expires: from when on the session is gone; never by default.

        Raises:
            ExistsError: the tenant has a session of that name.
        """
        place = place_of(tenant, session or uuid.uuid4().hex)
        version = first_version(
            "create", check_state(state), check_tokens(tokens), check_fingerprint(fingerprint), now()
        )
        with self.database.write() as connection:
            begin(connection, self._keys, place, version, label=label, expires=expires)
            return find(connection, place)

    def commit(self, commit: Commit) -> Version:
        """Adds a version after the head, and its messages if the store keeps them, in one transaction.

        Raises:
            NotFoundError: the session is not there.
            ConflictError: ``parent`` is no longer the head, or the session to be made is there; nothing was changed.
            FrozenError: the session is frozen.
            FingerprintError: a turn was made with another adapter than the version before it.
        """
        with self.database.write() as connection:
            return add(connection, self._rules, commit)

    def commit_all(self, commits: Sequence[Commit]) -> list[Version | Exception]:
        """Several commits in one transaction, which waits for the disk once.

        Each is there in whole or not at all, and one that is refused leaves the others as they are. None is durable
        before all are.

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
        """A new session that begins as a copy of another: its memory, and its log up to there.

        Neither depends on the other afterwards.

        Args:
            tenant: whose.
            session: which.
            new: the new session's name; a random one by default.
            version: from which version; the head by default.
            label: the new session's label.
            expires: from when on the new session is gone.

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
            begin(connection, self._keys, place, copy, label=label, expires=expires, log=copied, origin=origin)
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
        """Takes up an earlier memory again, as a new version; what it undoes stays in the timeline.

        Args:
            tenant: whose.
            session: which.
            version: the version to take up again; or
            turns: how many turns to undo, with whatever was observed since.
            parent: the version that is thought to be the head, to be told if it is not.

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
