"""Tells webhooks what was done: signed as standardwebhooks.com has it, and again and again until they have heard it."""

import asyncio
import base64
import hashlib
import hmac
import http.client
import logging
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

from deltamem.serve.metrics import Metrics
from deltamem.store import SessionStore, StoreError
from deltamem.store.webhooks import PREFIX, Delivery, Webhooks
from deltamem.version import __version__

_log = logging.getLogger(__name__)
LOOK_EVERY = 1.0
# Seconds after each attempt that failed; after the last one a delivery is given up.
DELAYS = (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600)
_TIMEOUT = 10
_LEASE = timedelta(seconds=6 * _TIMEOUT)
_AT_ONCE = 8


class Courier:
    """Empties the outbox of a store's webhooks.

    Attributes:
        wanted: the tenants that want to be told, as of the last look.
    """

    def __init__(self, store: SessionStore, metrics: Metrics) -> None:
        self.hooks = Webhooks(store)
        self.wanted: frozenset[str] = frozenset()
        self._metrics = metrics

    async def run(self) -> None:
        """Delivers what is due, until it is cancelled."""
        while True:
            try:
                await self.look()
                while due := await asyncio.to_thread(self.hooks.take, _AT_ONCE, _LEASE):
                    await asyncio.gather(*(asyncio.to_thread(self._deliver, one) for one in due))
            except StoreError as error:
                _log.warning("webhooks were not told", exc_info=error)
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Finds out who wants to be told."""
        self.wanted = frozenset(hook.tenant for hook in await asyncio.to_thread(self.hooks.list))

    def _deliver(self, one: Delivery) -> None:
        problem = _post(one)
        if problem is None:
            self.hooks.done(one.number)
            outcome = "delivered"
        elif one.attempts <= len(DELAYS):
            self.hooks.later(one.number, datetime.now(UTC) + timedelta(seconds=DELAYS[one.attempts - 1]))
            outcome = "failed"
        else:
            self.hooks.done(one.number)
            outcome = "given_up"
            _log.error("a webhook was not reached in %d attempts: %s", one.attempts, problem)
        self._metrics.webhooks.labels(outcome).inc()


def signature(secret: str, name: str, moment: int, body: bytes) -> str:
    """What proves that a message is from who has the secret."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = hmac.digest(key, f"{name}.{moment}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever is told is who was named."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def _post(one: Delivery) -> str | None:
    """Sends a message; what went wrong, if something did."""
    name, moment, body = f"msg_{one.number}", int(time.time()), one.body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"deltamem/{__version__}",
        "webhook-id": name,
        "webhook-timestamp": str(moment),
        "webhook-signature": signature(one.secret, name, moment, body),
    }
    try:
        request = urllib.request.Request(one.url, body, headers, method="POST")
        with _opener.open(request, timeout=_TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__
