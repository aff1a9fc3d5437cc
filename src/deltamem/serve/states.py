"""Memories as signed text that clients may bring back."""

import base64
import hashlib
import hmac

from deltamem.serve.errors import ApiError

_PREFIX = "dms1"


class StateSigner:
    """Signs states for one adapter.

    Args:
        secret: what the signatures are made with; servers that share it take one another's states.
        fingerprint: of the adapter.
    """

    def __init__(self, secret: bytes, fingerprint: str) -> None:
        self._secret = secret
        self._fingerprint = fingerprint

    def sign(self, state: bytes, tenant: str) -> str:
        """A state as text that this tenant may bring back."""
        return ".".join((_PREFIX, _encode(state), _encode(self._signature(state, tenant))))

    def verify(self, text: str, tenant: str) -> bytes:
        """The inverse of :meth:`sign`.

        Raises:
            ApiError: it is malformed, or was not given to this tenant under this adapter.
        """
        try:
            prefix, state, signature = text.split(".")
            found, given = (base64.b64decode(part, altchars=b"-_", validate=True) for part in (state, signature))
        except ValueError:
            prefix, found, given = "", b"", b""
        if prefix != _PREFIX:
            raise ApiError(400, "This is not a state that a server handed out.", "invalid_state", "state")
        if not hmac.compare_digest(self._signature(found, tenant), given):
            raise ApiError(
                400,
                "This state's signature is wrong: it was changed, or belongs to another server, tenant or adapter.",
                "invalid_state",
                "state",
            )
        return found

    def _signature(self, state: bytes, tenant: str) -> bytes:
        bound = "\n".join((_PREFIX, tenant, self._fingerprint, "")).encode()
        return hmac.digest(self._secret, bound + state, hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
