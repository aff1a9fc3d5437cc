"""Who calls: an API key opens one tenant, and everything that is asked is asked within it."""

import asyncio
from dataclasses import dataclass, field

from deltamem.serve.errors import ApiError
from deltamem.serve.settings import LOCAL_TENANT
from deltamem.store import ApiKeys, KeyLimits


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


async def authenticate(keys: ApiKeys | None, authorization: str | None) -> Caller:
    """The caller behind an ``Authorization`` header; without ``keys`` everyone is the local tenant.

    Raises:
        ApiError: 401, there is no key or it opens nothing.
    """
    if keys is None:
        return Caller(LOCAL_TENANT)
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _refused("This server needs an API key: Authorization: Bearer <key>.", "missing_api_key")
    record = await asyncio.to_thread(keys.authenticate, secret.strip())
    if record is None:
        raise _refused("This API key opens nothing: it is unknown or was revoked.", "invalid_api_key")
    return Caller(record.tenant, record.id, record.limits)


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code, headers={"WWW-Authenticate": "Bearer"})
