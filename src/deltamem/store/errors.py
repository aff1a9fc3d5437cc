"""What can go wrong in a store. Every message says what to do."""


class StoreError(ValueError):
    """The store refuses a request, or cannot carry it out.

    Args:
        message: what is wrong and what to do, for whoever runs the store.
        public: the text for a server's clients, if the message names the database or quotes its driver.

    Attributes:
        public: the text that clients may see.
    """

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        self.public = public or message


class InvalidError(StoreError):
    """An argument is not valid, such as a name with a slash or a label with a line break."""


class NotFoundError(StoreError):
    """There is no such session, version or key; another tenant's looks the same."""


class ExistsError(StoreError):
    """A session of that name is already there."""


class ConflictError(StoreError):
    """Another write came first: the session has moved on from the version that this write started from.

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
    """The session is frozen: you can read and fork it, but not write to it."""


class FingerprintError(StoreError):
    """Another adapter wrote the memory."""


class EncryptionError(StoreError):
    """A row cannot be decrypted: its key is missing or wrong, or the row was changed."""


class SchemaError(StoreError):
    """The database holds the tables of another version of deltamem, or is damaged."""


class UnavailableError(StoreError):
    """The database is locked, full or not reachable; the same store works again once that is over."""
