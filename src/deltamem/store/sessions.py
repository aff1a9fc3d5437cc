"""Where sessions live: tenants, sessions, and the versions of their memories."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.exc import IntegrityError

from deltamem.store.checks import (
    check_fingerprint,
    check_kind,
    check_label,
    check_moment,
    check_number,
    check_state,
    check_tokens,
)
from deltamem.store.encryption import StateKeys
from deltamem.store.engine import Database
from deltamem.store.errors import (
    ConflictError,
    ExistsError,
    FingerprintError,
    InvalidError,
    NotFoundError,
    StoreError,
    UnavailableError,
)
from deltamem.store.keeping import Keeping
from deltamem.store.messages import (
    append_messages,
    check_messages,
    numbered,
    read_messages,
)
from deltamem.store.reading import place_of
from deltamem.store.records import Commit, SessionRecord, StoredMessage, Version
from deltamem.store.rows import alive, find, label_columns, lock, lock_for_version, now
from deltamem.store.schema import VERSION, Place, found_version, named_session, prepare, sessions
from deltamem.store.versions import (
    LOG_CUTS,
    drop_versions,
    first_version,
    read_end,
    read_version,
    version_before,
    write_version,
)

_log = logging.getLogger(__name__)
_UPDATE = update(sessions).where(named_session(sessions))


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
            self._begin(connection, place, version, label=label, expires=expires)
            return find(connection, place)

    def commit(
        self,
        tenant: str,
        session: str,
        *,
        parent: int,
        state: bytes,
        tokens: int,
        kind: str = "turn",
        messages: Sequence[Mapping[str, Any]] = (),
        fingerprint: str | None = None,
        begin: bytes | None = None,
    ) -> Version:
        """Adds a version after the head, and its messages if the store keeps them, in one transaction.

        Args:
            tenant: whose.
            session: which.
            parent: the version that the new memory was made from.
            state: the new memory.
            tokens: how many tokens it has written.
            kind: ``turn``, ``observe``, ``import``, ``forget``, or another word. After an import or a
                forget the log begins anew, as the memory does.
            messages: what was said, as mappings that JSON can hold.
            fingerprint: of the adapter, where an import or a forget starts with another one.
            begin: makes the session in the same transaction, with this memory as its version 1, which ``parent``
                then names; needs ``fingerprint``.

        Raises:
            NotFoundError: the session is not there.
            ConflictError: ``parent`` is no longer the head, or the session to be made is there; nothing was changed.
            FrozenError: the session is frozen.
            FingerprintError: a turn was made with another adapter than the version before it.
        """
        wanted = Commit(
            tenant=tenant,
            session=session,
            parent=parent,
            state=state,
            tokens=tokens,
            kind=kind,
            messages=messages,
            fingerprint=fingerprint,
            begin=begin,
        )
        with self.database.write() as connection:
            return self._add(connection, wanted)

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
                return [UnavailableError(str(error)) for _ in commits]
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
            self._begin(
                connection, place, copy, label=label, expires=expires, log=copied, origin=(session, found.number)
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
            self._advance(connection, place, again, tail, positions=row.positions)
        return again

    def _alone(self, commit: Commit) -> Version | Exception:
        try:
            return self.commit(**vars(commit))
        except Exception as error:
            return error

    def _attempt(self, connection: Connection, commit: Commit) -> Version | Exception:
        try:
            with connection.begin_nested():
                return self._add(connection, commit)
        except StoreError as error:
            return error

    def _add(self, connection: Connection, commit: Commit) -> Version:
        place = place_of(commit.tenant, commit.session)
        check_messages(commit.messages)
        kind, parent = check_kind(commit.kind), check_number("parent", commit.parent)
        state, tokens = check_state(commit.state), check_tokens(commit.tokens)
        if commit.begin is not None:
            self._begin_for(connection, place, commit)
        row = lock_for_version(connection, place, parent)
        log_end, before = read_end(connection, place, parent)
        written_by = before if commit.fingerprint is None else check_fingerprint(commit.fingerprint)
        anew = kind in LOG_CUTS
        if written_by != before and not anew:
            raise FingerprintError(
                f"Session {commit.session!r} was written by the adapter {before[:12]}… and this {kind} by "
                f"{written_by[:12]}…. Start fresh with the kind forget or import."
            )
        version = Version(parent + 1, parent, None, kind, tokens, written_by, now(), state)
        logged = commit.messages if self.keep_messages else ()
        placed = numbered(logged, after=row.positions, version=version.number, created=version.created)
        tail = append_messages(connection, self._keys, place, placed, None if anew else log_end)
        self._advance(connection, place, version, tail, positions=row.positions + len(placed))
        return version

    def _begin_for(self, connection: Connection, place: Place, commit: Commit) -> None:
        fingerprint = check_fingerprint(commit.fingerprint or "")
        first = first_version("create", check_state(commit.begin or b""), 0, fingerprint, now())
        try:
            self._begin(connection, place, first, label=None, expires=None)
        except ExistsError:
            raise ConflictError(place.session, 0, 1) from None

    def _begin(
        self,
        connection: Connection,
        place: Place,
        version: Version,
        *,
        label: str | None,
        expires: datetime | None,
        log: Sequence[StoredMessage] = (),
        origin: tuple[str | None, int | None] = (None, None),
    ) -> None:
        row = place.row() | {
            "head": version.number,
            "positions": len(log),
            "frozen": False,
            "created": version.created,
            "updated": version.created,
            "expires": check_moment(expires),
            "origin_session": origin[0],
            "origin_version": origin[1],
            **label_columns(check_label(label)),
        }
        connection.execute(delete(sessions).where(place.within(sessions), ~alive(version.created)))
        try:
            connection.execute(insert(sessions).values(row))
        except IntegrityError:
            raise ExistsError(f"There is a session {place.session!r} already; choose another name.") from None
        tail = append_messages(connection, self._keys, place, log, None)
        write_version(connection, self._keys, place, version, tail)

    def _advance(
        self, connection: Connection, place: Place, version: Version, tail: int | None, *, positions: int
    ) -> None:
        write_version(connection, self._keys, place, version, tail)
        moved = {"head": version.number, "positions": positions, "updated": version.created}
        connection.execute(_UPDATE, place.named(**moved))
        if self.keep_versions is not None and version.number > self.keep_versions:
            drop_versions(connection, place, version.number - self.keep_versions + 1)
