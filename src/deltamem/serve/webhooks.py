"""Tells webhooks what was done: signed as standardwebhooks.com has it, and again and again until they have heard it."""

import asyncio
import base64
import hashlib
import hmac
import logging
import ssl
import time
from datetime import UTC, datetime, timedelta

import httpx

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
    """Empties the outbox of a store's webhooks; none waits for another.

    Attributes:
        wanted: the tenants that want to be told, as of the last look.
    """

    def __init__(self, store: SessionStore, metrics: Metrics) -> None:
        self.hooks = Webhooks(store)
        self.wanted: frozenset[str] = frozenset()
        self._metrics = metrics

    async def run(self) -> None:
        """Delivers what is due, until it is cancelled."""
        telling: dict[str, asyncio.Task[None]] = {}
        failing = False
        async with _client() as client, asyncio.TaskGroup() as group:
            while True:
                try:
                    await self.look()
                    telling = {hook: task for hook, task in telling.items() if not task.done()}
                    for hook in set(await asyncio.to_thread(self.hooks.due)) - telling.keys():
                        telling[hook] = group.create_task(self._tell(client, hook))
                    failing = False
                except StoreError as error:
                    if not failing:  # once for each time that the store is out of reach
                        _log.warning("webhooks were not told", exc_info=error)
                    failing = True
                await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Finds out who wants to be told."""
        self.wanted = frozenset(hook.tenant for hook in await asyncio.to_thread(self.hooks.list))

    async def _tell(self, client: httpx.AsyncClient, hook: str) -> None:
        """Tells a webhook what is due: one message, and several at once as long as it hears them."""
        most = 1
        try:
            while due := await asyncio.to_thread(self.hooks.take, hook, most, _LEASE):
                heard = await asyncio.gather(*(self._deliver(client, one) for one in due))
                most = _AT_ONCE if all(heard) else 1
        except Exception as error:  # the others go on; this one comes again when its lease is over
            _log.warning("webhook %s was not told", hook, exc_info=error)

    async def _deliver(self, client: httpx.AsyncClient, one: Delivery) -> bool:
        problem = await _post(client, one)
        if problem is None:
            await asyncio.to_thread(self.hooks.done, one.number)
            outcome = "delivered"
        elif one.attempts <= len(DELAYS):
            wait = DELAYS[one.attempts - 1]
            await asyncio.to_thread(self.hooks.later, one.number, datetime.now(UTC) + timedelta(seconds=wait))
            outcome = "failed"
            _log.warning("webhook %s was not told, and is again in %g s: %s", one.webhook, wait, problem)
        else:
            await asyncio.to_thread(self.hooks.done, one.number)
            outcome = "given_up"
            _log.error("webhook %s was not told in %d attempts: %s", one.webhook, one.attempts, problem)
        self._metrics.webhooks.labels(outcome).inc()
        return problem is None


def signature(secret: str, name: str, moment: int, body: bytes) -> str:
    """What proves that a message is from who has the secret."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = hmac.digest(key, f"{name}.{moment}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def _client() -> httpx.AsyncClient:
    """What posts: by the system's certificates, each message on a connection of its own, without redirects."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(verify=ssl.create_default_context(), timeout=None, limits=limits)


async def _post(client: httpx.AsyncClient, one: Delivery) -> str | None:
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
        # For the whole answer: one that comes byte by byte would hold up the others of its webhook.
        async with asyncio.timeout(_TIMEOUT), client.stream("POST", one.url, content=body, headers=headers) as answer:
            return None if answer.is_success else f"HTTP {answer.status_code}"
    except TimeoutError:
        return f"no answer within {_TIMEOUT} seconds"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return str(error) or type(error).__name__
