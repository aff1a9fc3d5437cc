"""Who calls, and what they may ask for: an API key opens one tenant, with a scope and limits of its own."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from deltamem.serve.errors import ApiError, too_many
from deltamem.serve.settings import LOCAL_TENANT
from deltamem.store import SCOPES, Action, ApiKeys, KeyLimits, Rates, Scope, TenantLimits, UnavailableError

_log = logging.getLogger(__name__)
LOOK_EVERY = 2.0


@dataclass
class Touched:
    """What a request did to what a tenant has, as far as it got; no action where it had nothing to do with it."""

    action: Action | None = None
    session: str | None = None
    recorded: bool = False


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    Attributes:
        tenant: whose sessions it is about.
        key: the API key's id; ``None`` on a server that needs none.
        limits: how much the key may ask for.
        scope: what it may do. Without keys whoever calls is at the server's own machine, and may do all.
        user: whose the sessions are that the request makes.
        tenant_limits: how much all keys of the tenant may ask for together.
        touched: what the request does, for the audit log.
    """

    tenant: str
    key: str | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)
    scope: Scope = "admin"
    user: str | None = None
    tenant_limits: TenantLimits = field(default_factory=TenantLimits)
    touched: Touched = field(default_factory=Touched)

    @property
    def counted(self) -> dict[str, TenantLimits]:
        """What the caller's requests count against; nothing on a server that needs no key."""
        of_key = TenantLimits(self.limits.requests_per_minute, self.limits.tokens_per_minute)
        every = {f"key:{self.key}": of_key, f"tenant:{self.tenant}": self.tenant_limits}
        return {} if self.key is None else {name: one for name, one in every.items() if one != TenantLimits()}

    def touch(self, action: Action, session: str | None) -> None:
        """Notes what the request does; a deletion stays one, whatever it does to bring it about."""
        if self.touched.action != "delete":
            self.touched.action = action
        self.touched.session = session

    def need(self, scope: Scope) -> None:
        """Refuses what the key may not do.

        Raises:
            ApiError: 403.
        """
        if SCOPES.index(self.scope) < SCOPES.index(scope):
            raise ApiError(
                403, f"This needs an API key of the scope {scope}; this one's is {self.scope}.", "insufficient_scope"
            )


class Access:
    """Who is let in, by the keys that the store has now.

    A key is looked up for every request, so one that was revoked opens nothing any more. A server that needs no key
    asks the store every :data:`LOOK_EVERY` seconds, while it is used, whether there is one by now. From then on every
    request needs one, even if all are revoked again.

    Args:
        keys: of the server's store.
        required: whether requests need a key from the start.
    """

    def __init__(self, keys: ApiKeys, *, required: bool) -> None:
        self.required = required
        self._keys = keys
        self._looked = time.monotonic()

    async def caller(self, headers: Mapping[str, str], user: str | None = None) -> Caller:
        """The caller behind a request's headers, for a user; the local tenant where no key is needed.

        The key is in ``Authorization``, or as Anthropic's clients send it in ``x-api-key``.

        Raises:
            ApiError: 401, there is no key, or it is unknown or revoked.
            UnavailableError: the store is out of reach.
        """
        if not self.required and not await self._by_now():
            return Caller(LOCAL_TENANT, user=user)
        scheme, _, secret = headers.get("authorization", f"Bearer {headers.get('x-api-key', '')}").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _refused("This server needs an API key: Authorization: Bearer <key>.", "missing_api_key")
        record = await asyncio.to_thread(self._keys.authenticate, secret.strip())
        if record is None:
            raise _refused("This API key is unknown or was revoked.", "invalid_api_key")
        return Caller(record.tenant, record.id, record.limits, record.scope, user, record.tenant_limits)

    async def _by_now(self) -> bool:
        """Whether a key is needed by now."""
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            # A store out of reach tells nothing new; requests that need it fail by themselves.
            with contextlib.suppress(UnavailableError):
                self.required |= await asyncio.to_thread(self._keys.any_active)
        return self.required


class RateLimits:
    """The limits of keys and tenants, counted in the store for all its servers. One event loop uses them."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._charging: set[asyncio.Task[None]] = set()

    async def admit(self, caller: Caller) -> None:
        """Counts a request.

        Raises:
            ApiError: 429, the caller is over a limit.
            UnavailableError: the store is out of reach.
        """
        counted = caller.counted
        if not counted:
            return
        await asyncio.gather(*self._charging)
        over = await asyncio.to_thread(self._rates.admit, counted)
        if over is not None:
            whose = "This API key" if over.whose.startswith("key:") else "This tenant"
            raise too_many(f"{whose} has used up this minute's {over.what}.", "rate_limit_exceeded", over.seconds)

    def charge(self, caller: Caller, tokens: int) -> None:
        """Counts tokens that were read or generated; they are known only afterwards, and nobody waits for it."""
        counted = {name: one for name, one in caller.counted.items() if one.tokens_per_minute is not None}
        if counted and tokens:
            task = asyncio.get_running_loop().create_task(self._charge(counted, tokens))
            self._charging.add(task)
            task.add_done_callback(self._charging.discard)

    async def _charge(self, counted: dict[str, TenantLimits], tokens: int) -> None:
        try:
            await asyncio.to_thread(self._rates.charge, counted, tokens)
        except UnavailableError as error:
            _log.warning("%d tokens were not counted", tokens, exc_info=error)


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code, headers={"WWW-Authenticate": "Bearer"})
