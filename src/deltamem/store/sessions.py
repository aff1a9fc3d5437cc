"""The sessions of tenants in a store."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypedDict, Unpack

from sqlalchemy import Connection, delete, func, select, update

from deltamem.store import timeline
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
from deltamem.store.errors import (
    FingerprintError,
    FrozenError,
    InvalidError,
    NotFoundError,
    StoreError,
    UnavailableError,
)
from deltamem.store.lookup import Order, find, label_columns, lock, not_found, now, page, place_of
from deltamem.store.messages import all_messages, check_messages, drop_unreachable, previous_message, read_messages
from deltamem.store.records import Commit, Page, Rewritten, SessionRecord, StoredMessage, Version, VersionInfo
from deltamem.store.schema import sessions, versions
from deltamem.store.search import Told, find_by_words, keep_vectors, kept_vectors
from deltamem.store.store import Store
from deltamem.store.versions import (
    INFO,
    LOADED,
    WHOLE,
    Rules,
    add,
    begin,
    drop_versions,
    no_version,
    read_end,
    read_version,
    whole_version,
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


class SessionStore(Store):
    """Sessions in a database, SQLite or PostgreSQL, used by any number of threads and processes.

    Once a method returns, its change is durable. Every method works within one tenant, and another tenant's
    data looks as if it did not exist. Memories are opaque bytes, as ``state_to_bytes`` makes them.
    Any method may raise :class:`UnavailableError` (locked, full, not reachable: nothing was written, and the
    same store works again once that is over) and :class:`InvalidError` (a malformed name or argument).

    Make one with :meth:`open`, and close it, or use it in a ``with`` statement.
    """

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
        fingerprint, state, tokens = check_fingerprint(fingerprint), check_state(state), check_tokens(tokens)
        version = Version(1, None, None, "create", tokens, fingerprint, now(), state)
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
            row = connection.execute(LOADED, place.named(moment=now(), number=number)).one_or_none()
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
            return tuple(VersionInfo(**row._mapping) for row in connection.execute(wanted))

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
            timeline.fork(connection, self._keys, source, place, version, label=label, expires=expires)
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
            return timeline.roll_back(connection, self._rules, place, version, turns or 0, parent=parent)

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
            version = timeline.rewrite(
                connection, self._rules, place, parent=parent, base=base, turns=turns, empty=empty
            )
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
