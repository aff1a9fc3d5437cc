"""Who calls, and how much they may ask for: an API key opens one tenant, with limits of its own."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from deltamem.serve.errors import ApiError, too_many
from deltamem.serve.settings import LOCAL_TENANT
from deltamem.store import ApiKeys, KeyLimits, UnavailableError

LOOK_EVERY = 2.0


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    Attributes:
        tenant: whose sessions it is about.
        key: the API key's id; ``None`` on a server that needs none.
        limits: what the key may do.
    """

    tenant: str
    key: str | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)


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

    async def caller(self, authorization: str | None) -> Caller:
        """The caller behind an ``Authorization`` header; the local tenant where no key is needed.

        Raises:
            ApiError: 401, there is no key, or it is unknown or revoked.
            UnavailableError: the store is out of reach.
        """
        if not self.required and not await self._by_now():
            return Caller(LOCAL_TENANT)
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _refused("This server needs an API key: Authorization: Bearer <key>.", "missing_api_key")
        record = await asyncio.to_thread(self._keys.authenticate, secret.strip())
        if record is None:
            raise _refused("This API key is unknown or was revoked.", "invalid_api_key")
        return Caller(record.tenant, record.id, record.limits)

    async def _by_now(self) -> bool:
        """Whether a key is needed by now."""
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            # A store out of reach tells nothing new; requests that need it fail by themselves.
            with contextlib.suppress(UnavailableError):
                self.required |= await asyncio.to_thread(self._keys.any_active)
        return self.required


@dataclass
class _Bucket:
    """Fills at ``rate`` a second up to ``size``, and may be overdrawn."""

    size: float
    level: float
    filled: float

    def fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.filled) * self.size / 60)
        self.filled = now

    def wait(self, needed: float) -> float:
        """Seconds until ``needed`` are in it."""
        return max(0.0, (needed - self.level) * 60 / self.size)


class RateLimits:
    """The buckets of all keys. One event loop uses them, so they need no lock."""

    def __init__(self) -> None:
        self._requests: dict[str, _Bucket] = {}
        self._tokens: dict[str, _Bucket] = {}

    def admit(self, caller: Caller) -> None:
        """Counts a request.

        Raises:
            ApiError: 429, the caller is over a limit.
        """
        requests = self._bucket(self._requests, caller, caller.limits.requests_per_minute)
        tokens = self._bucket(self._tokens, caller, caller.limits.tokens_per_minute)
        if tokens is not None and tokens.level <= 0:
            raise too_many("This API key has used up this minute's tokens.", "rate_limit_exceeded", tokens.wait(1))
        if requests is None:
            return
        if requests.level < 1:
            raise too_many("This API key has used up this minute's requests.", "rate_limit_exceeded", requests.wait(1))
        requests.level -= 1

    def charge(self, caller: Caller, tokens: int) -> None:
        """Counts tokens that were read or generated; they are known only afterwards."""
        bucket = self._bucket(self._tokens, caller, caller.limits.tokens_per_minute)
        if bucket is not None:
            bucket.level -= tokens

    def _bucket(self, buckets: dict[str, _Bucket], caller: Caller, size: int | None) -> _Bucket | None:
        if size is None or caller.key is None:
            return None
        now = time.monotonic()
        bucket = buckets.get(caller.key)
        if bucket is None or bucket.size != size:
            bucket = buckets[caller.key] = _Bucket(size, size, now)
        bucket.fill(now)
        return bucket


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code, headers={"WWW-Authenticate": "Bearer"})
