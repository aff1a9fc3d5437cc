"""Webhooks: where a tenant wants to be told what was done, and what is still to be told."""

import base64
import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, delete, insert, select, update

from deltamem.store.audit import add_acts
from deltamem.store.checks import check_name
from deltamem.store.errors import InvalidError, NotFoundError
from deltamem.store.lookup import now
from deltamem.store.records import ACTIONS, Act, Action, Webhook
from deltamem.store.schema import deliveries, webhooks
from deltamem.store.sessions import SessionStore

PREFIX = "whsec_"
_TOLD: tuple[Action, ...] = ("write", "export", "delete")


class Delivery(NamedTuple):
    """Something that is to be told now; ``attempts`` counts this one."""

    number: int
    webhook: str
    url: str
    secret: str
    body: str
    attempts: int


class Webhooks:
    """The webhooks in a store's database, and their outbox, which all servers of the store empty together.

    Args:
        store: an open store; it is not closed with this object.
    """

    def __init__(self, store: SessionStore) -> None:
        self._database = store.database

    def create(self, tenant: str, url: str, actions: Sequence[str] = _TOLD) -> Webhook:
        """A new webhook of a tenant; its secret is made here.

        Raises:
            InvalidError: the tenant's name, the URL or an action is none.
        """
        _check_url(url)
        if not actions or not set(actions) <= set(ACTIONS):
            raise InvalidError(f"A webhook's actions are some of {', '.join(ACTIONS)}.")
        made = Webhook(
            id=f"hook_{secrets.token_hex(6)}",
            tenant=check_name("tenant", tenant),
            url=url,
            actions=tuple(action for action in ACTIONS if action in actions),
            secret=PREFIX + base64.b64encode(secrets.token_bytes(32)).decode(),
            created=now(),
        )
        with self._database.write() as connection:
            connection.execute(insert(webhooks).values({**vars(made), "actions": " ".join(made.actions)}))
        return made

    def list(self, tenant: str | None = None) -> tuple[Webhook, ...]:
        """The webhooks of a tenant, or of all; the oldest first."""
        wanted = select(webhooks).order_by(webhooks.c.created, webhooks.c.id)
        if tenant is not None:
            wanted = wanted.where(webhooks.c.tenant == check_name("tenant", tenant))
        with self._database.read() as connection:
            return tuple(_webhook(row) for row in connection.execute(wanted))

    def delete(self, webhook: str) -> Webhook:
        """Deletes a webhook and the messages that it has not received yet.

        Raises:
            NotFoundError: there is no such webhook.
        """
        with self._database.write() as connection:
            row = connection.execute(select(webhooks).where(webhooks.c.id == webhook)).one_or_none()
            if row is None:
                raise NotFoundError(f"There is no webhook {webhook!r}; list them to see their ids.")
            connection.execute(delete(webhooks).where(webhooks.c.id == webhook))
        return _webhook(row)

    def add(self, acts: Sequence[Act], *, audit: bool) -> None:
        """Notes what was done, in one transaction: for whoever wants to be told, and in the audit log if wanted."""
        with self._database.write() as connection:
            if audit:
                add_acts(connection, acts)
            for act in acts:
                _queue(connection, act)

    def due(self) -> tuple[str, ...]:
        """The webhooks for which a message is due now."""
        with self._database.read() as connection:
            found = select(deliveries.c.webhook).where(deliveries.c.due <= now()).distinct()
            return tuple(connection.execute(found).scalars())

    def take(self, webhook: str, most: int, lease: timedelta) -> tuple[Delivery, ...]:
        """What a webhook is to be told now; no other server takes it before the lease is over."""
        moment = now()
        of_hook = (deliveries.c.webhook == webhook, deliveries.c.due <= moment)
        due = select(deliveries.c.number).where(*of_hook).order_by(deliveries.c.due).limit(most)
        with self._database.read() as connection:
            # Mostly there is nothing, which is no reason to lock anything.
            if connection.execute(due).first() is None:
                return ()
        with self._database.write() as connection:
            numbers = connection.execute(due.with_for_update(skip_locked=True)).scalars().all()
            taken = deliveries.c.number.in_(numbers)
            later = update(deliveries).where(taken)
            connection.execute(later.values(due=moment + lease, attempts=deliveries.c.attempts + 1))
            wanted = select(deliveries, webhooks.c.url, webhooks.c.secret).join_from(deliveries, webhooks)
            rows = connection.execute(wanted.where(taken).order_by(deliveries.c.number)).all()
        return tuple(Delivery(row.number, row.webhook, row.url, row.secret, row.body, row.attempts) for row in rows)

    def done(self, number: int) -> None:
        """Takes a delivery out of the outbox."""
        with self._database.write() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.number == number))

    def later(self, number: int, due: datetime) -> None:
        """Tries a delivery again at a later time."""
        with self._database.write() as connection:
            connection.execute(update(deliveries).where(deliveries.c.number == number).values(due=due))


def _check_url(url: str) -> None:
    wrong = "A webhook's URL begins with https:// or http:// and names a host, without spaces: {}."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidError(wrong.format(error)) from None
    named = bool(host) and all(host.removesuffix(".").split("."))
    if parts.scheme not in ("http", "https") or not named or port == 0 or len(url) > 1000 or " " in url:
        raise InvalidError(wrong.format("this one is none"))
    if not url.isprintable():
        raise InvalidError(wrong.format("this one has a character that cannot be shown"))


def _queue(connection: Connection, act: Act) -> None:
    if act.status >= 400 or act.tenant is None:
        return
    for row in connection.execute(select(webhooks).where(webhooks.c.tenant == act.tenant)):
        if act.action in row.actions.split():
            about = {name: value for name, value in vars(act).items() if name not in ("action", "created")}
            body = {"type": f"memory.{act.action}", "timestamp": act.created.isoformat(), "data": about}
            queued = {"webhook": row.id, "body": json.dumps(body), "due": now(), "attempts": 0}
            connection.execute(insert(deliveries).values(queued))


def _webhook(row: Row[tuple[object, ...]]) -> Webhook:
    return Webhook(**{**row._mapping, "actions": tuple(row._mapping["actions"].split())})
