"""What can go wrong in a store. Every message says what to do."""


class StoreError(ValueError):
    """The store refuses, or cannot do, what was asked of it.

    Args:
        message: what is wrong and what to do, for whoever runs the store.
        public: the same for a client of a server, where the message names the database or quotes its driver.

    Attributes:
        public: what a client may be told.
    """

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        self.public = public or message


class InvalidError(StoreError):
    """An argument is not one that a store takes: a name with a slash, a label with a line break."""


class NotFoundError(StoreError):
    """There is no such session, version or key; another tenant's looks the same."""


class ExistsError(StoreError):
    """A session of that name is already there."""


class ConflictError(StoreError):
    """The session has moved on since the version that this write started from.

    Attributes:
        head: the number of the version it is at.
    """

    def __init__(self, session: str, parent: int, head: int) -> None:
        super().__init__(
            f"Session {session!r} is at version {head} and this write started from version {parent}: another writer "
            "was first. Nothing was changed; load the session and repeat the turn."
        )
        self.head = head


class FrozenError(StoreError):
    """The session is frozen: it can be read and forked, not written."""


class FingerprintError(StoreError):
    """The memory was written by another adapter than the one that wants it."""


class EncryptionError(StoreError):
    """A row cannot be decrypted: its key is missing or wrong, or the row was changed."""


class SchemaError(StoreError):
    """The database holds the tables of another version of deltamem, or is damaged."""


class UnavailableError(StoreError):
    """The database is locked, full or out of reach; the same store works again once it is not."""
