"""What is done with sessions besides giving them versions: by their owners, and by operators across all tenants."""

from dataclasses import replace
from datetime import datetime
from typing import TypedDict, Unpack

from sqlalchemy import delete, select, tuple_, update

from deltamem.store import rotation, trimming
from deltamem.store.checks import check_label, check_moment, check_name, check_number
from deltamem.store.messages import drop_unreachable
from deltamem.store.reading import Reading, place_of
from deltamem.store.records import SessionRecord
from deltamem.store.rows import find, label_columns, lock, not_found, now
from deltamem.store.schema import api_keys, sessions
from deltamem.store.versions import drop_versions

_BATCH = 200


class Changes(TypedDict, total=False):
    """What can be changed of a session.

    Attributes:
        label: a line for people, or none.
        expires: from when on the session is gone; ``None`` for never.
        frozen: whether writes are refused.
    """

    label: str | None
    expires: datetime | None
    frozen: bool


class Keeping(Reading):
    """Labels, expiry, freezing, deleting, retention and rotation; :class:`SessionStore` makes the versions."""

    def change(self, tenant: str, session: str, **changes: Unpack[Changes]) -> SessionRecord:
        """Changes what is given, all of it or nothing: ``label``, ``expires``, ``frozen``.

        Raises:
            NotFoundError: the session is not there.
            InvalidError: a value is not one.
        """
        place = place_of(tenant, session)
        if "label" in changes:
            check_label(changes["label"])
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

        After a commit of the kind ``forget`` this is what makes the forgotten irrecoverable.

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

    def delete_tenant(self, tenant: str) -> int:
        """Deletes everything a tenant has, API keys too, and returns how many sessions that were."""
        check_name("tenant", tenant)
        with self.database.write() as connection:
            connection.execute(delete(api_keys).where(api_keys.c.tenant == tenant))
            gone = connection.execute(delete(sessions).where(sessions.c.tenant == tenant)).rowcount
        self.database.scrub()
        return gone

    def purge_expired(self, moment: datetime | None = None) -> int:
        """Deletes the sessions, of all tenants, that have expired, and returns how many there were.

        It goes by small transactions, beside running servers; they do it themselves every minute.
        """
        expired = sessions.c.expires <= (check_moment(moment) or now())
        place = (sessions.c.tenant, sessions.c.session)
        some = tuple_(*place).in_(select(*place).where(expired).limit(_BATCH))
        # The condition twice: PostgreSQL waits for a session that is being changed, and then asks the outer one again.
        purge = delete(sessions).where(some, expired)
        gone, last = 0, _BATCH
        while last == _BATCH:
            with self.database.write() as connection:
                last = connection.execute(purge).rowcount
            gone += last
        if gone:
            self.database.scrub()
        return gone

    def trim(self, keep: int) -> int:
        """Deletes all but the last ``keep`` versions of every session, of all tenants; returns how many.

        A server does so with each commit; this is for sessions that nobody writes to any more after it was told to
        keep fewer. It goes by small transactions and can be broken off and repeated, beside running servers.
        """
        gone = trimming.trim(self.database, check_number("keep", keep))
        if gone:
            self.database.scrub()
        return gone

    def rekey(self) -> int:
        """Encrypts every row that is not encrypted with the current key anew; returns how many there were.

        It goes by small transactions and can be broken off and repeated, beside a server that runs with the
        same keys. Once it has returned, and every server has the new key first, the old keys can go.

        Raises:
            EncryptionError: the store was opened without keys, or a row cannot be decrypted.
        """
        rows = rotation.rekey(self.database, self._keys)
        self.database.scrub()
        return rows
