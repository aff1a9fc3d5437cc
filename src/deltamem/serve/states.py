"""Memories as clients get them: as signed text that they may bring back, and as plain numbers."""

import base64
import binascii
import hashlib
import hmac

import torch
from torch import Tensor

from deltamem.serve.errors import ApiError
from deltamem.state import MemoryState

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
            found, given = _decode(state), _decode(signature)
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


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None


def norms_of(state: MemoryState) -> list[list[float]]:
    """``[layers][states]``, the Frobenius norms of a memory of one row."""
    return _one_row(state.norms())


def matrices_of(state: MemoryState) -> list[list[list[list[float]]]]:
    """``[layers][states][R][R]``, a memory of one row as plain numbers."""
    found: list[list[list[list[float]]]] = torch.stack([matrices[0] for matrices in state.states]).cpu().tolist()
    return found


def change_of(state: MemoryState, before: MemoryState) -> list[list[float]]:
    """``[layers][states]``, the Frobenius norms of the change since an earlier memory."""
    return _one_row(state.diff(before))


def _one_row(values: Tensor) -> list[list[float]]:
    """``[L, B, N]`` of one row as lists ``[L][N]``."""
    rows: list[list[float]] = values[:, 0].tolist()
    return rows
