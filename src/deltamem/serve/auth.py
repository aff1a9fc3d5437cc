"""Who calls: an API key opens one tenant, and everything that is asked is asked within it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from deltamem.serve.errors import ApiError
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
            ApiError: 401, there is no key or it opens nothing.
            UnavailableError: the store is out of reach.
        """
        if not self.required and not await self._by_now():
            return Caller(LOCAL_TENANT)
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _refused("This server needs an API key: Authorization: Bearer <key>.", "missing_api_key")
        record = await asyncio.to_thread(self._keys.authenticate, secret.strip())
        if record is None:
            raise _refused("This API key opens nothing: it is unknown or was revoked.", "invalid_api_key")
        return Caller(record.tenant, record.id, record.limits)

    async def _by_now(self) -> bool:
        """Whether a key is needed by now."""
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            # A store out of reach tells nothing new; requests that need it fail by themselves.
            with contextlib.suppress(UnavailableError):
                self.required |= await asyncio.to_thread(self._keys.any_active)
        return self.required


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code, headers={"WWW-Authenticate": "Bearer"})
