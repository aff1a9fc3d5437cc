"""Encryption at rest: AES-256-GCM, with keys that can be rotated."""

import base64
import binascii
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Self

from deltamem.extensions import from_extra
from deltamem.store.errors import EncryptionError

ENVIRONMENT = "DELTAMEM_KEYS"
_KEY_BYTES = 32
# What a client is told: the ids of keys are the operator's affair.
_UNREADABLE = "This memory cannot be decrypted now; whoever runs the server finds the reason in its log."
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class StateKeys:
    """The keys of a store, by their ids; the first encrypts new rows.

    Args:
        keys: for each id 32 random bytes.

    Raises:
        EncryptionError: there is no key, or an id or a key is malformed.
        ImportError: cryptography is not installed.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        with from_extra("serve", "Encryption needs cryptography"):
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        if not keys:
            raise EncryptionError("No key was given to encrypt with.")
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise EncryptionError("A key's id has 1 to 64 of A-Z a-z 0-9 . _ - and comes before the colon.")
            if len(key) != _KEY_BYTES:
                raise EncryptionError(f"Key {key_id!r} has {len(key)} bytes; AES-256 takes {_KEY_BYTES}.")
        self.current = next(iter(keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._ciphers

    def __iter__(self) -> Iterator[str]:
        return iter(self._ciphers)

    def __repr__(self) -> str:
        return f"StateKeys({', '.join(self._ciphers)})"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Keys written as ``id:base64,id2:base64``.

        Raises:
            EncryptionError: they are malformed, or an id comes twice.
        """
        keys: dict[str, bytes] = {}
        for number, part in enumerate(text.split(","), 1):
            key_id, colon, encoded = part.strip().partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                key = b""
            if not colon or not key:
                raise EncryptionError(
                    f"Key {number} is not written as id:base64; deltamem store new-key NAME makes one."
                )
            if key_id in keys:
                raise EncryptionError(f"Key {number} has the id of an earlier one.")
            keys[key_id] = key
        return cls(keys)

    @classmethod
    def from_environment(cls, name: str = ENVIRONMENT) -> Self | None:
        """The keys in an environment variable; ``None`` if it is unset or empty.

        Raises:
            EncryptionError: the variable is malformed.
        """
        text = os.environ.get(name, "").strip()
        if not text:
            return None
        try:
            return cls.from_text(text)
        except EncryptionError as error:
            raise EncryptionError(f"{name}: {error}") from None

    @staticmethod
    def generate(key_id: str) -> str:
        """A new key as ``id:base64``; put it first in the environment variable."""
        return f"{key_id}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"

    def encrypt(self, data: bytes, context: bytes) -> bytes:
        """A random nonce and the ciphertext, bound to ``context``, under the current key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[self.current].encrypt(nonce, data, context)

    def decrypt(self, key_id: str, data: bytes, context: bytes) -> bytes:
        """The inverse of :meth:`encrypt`.

        Raises:
            EncryptionError: there is no key of that id, the key is another one, or the data or the context changed.
        """
        from cryptography.exceptions import InvalidTag

        if key_id not in self._ciphers:
            raise EncryptionError(
                f"This row is encrypted with the key {key_id!r}, which is not among the store's keys "
                f"({', '.join(self._ciphers)}). Add it to {ENVIRONMENT}.",
                _UNREADABLE,
            )
        try:
            return self._ciphers[key_id].decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise EncryptionError(
                f"This row does not decrypt with the key {key_id!r}: either {ENVIRONMENT} has another key under that "
                "id, or the row was changed or moved in the database. Check the key; else restore a backup.",
                _UNREADABLE,
            ) from None


def seal(keys: StateKeys | None, data: bytes, context: bytes) -> tuple[str | None, bytes]:
    """Data as it is stored: the id of its key and the ciphertext, or ``None`` and the data without keys."""
    return (None, data) if keys is None else (keys.current, keys.encrypt(data, context))


def unseal(keys: StateKeys | None, key_id: str | None, data: bytes, context: bytes) -> bytes:
    """The inverse of :func:`seal`.

    Raises:
        EncryptionError: the row cannot be decrypted, or it is not encrypted in a store that has keys, where
            anyone who can write to the database could have put it.
    """
    if keys is None and key_id is not None:
        raise EncryptionError(
            f"This row is encrypted with the key {key_id!r} and the store was opened without keys. Set {ENVIRONMENT}.",
            _UNREADABLE,
        )
    if keys is None:
        return data
    if key_id is None:
        raise EncryptionError(
            "This row is not encrypted and the store has keys. If it was written before there were keys, encrypt it "
            "with deltamem store rekey (SessionStore.rekey); else someone put it into the database.",
            _UNREADABLE,
        )
    return keys.decrypt(key_id, data, context)


def row_context(tenant: str, session: str, number: int, column: str) -> bytes:
    """What a ciphertext is bound to, so that it means nothing in another row or column."""
    return json.dumps(["deltamem", 1, tenant, session, number, column]).encode()
