"""How a server is set up, and what it refuses to be."""

import ipaddress
import re
from dataclasses import dataclass

LOCAL_TENANT = "default"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\sA-Z]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server is set up.

    Attributes:
        secret: signs the states that are handed to clients; at least 16 bytes.
        model_name: what ``/v1/models`` calls the model.
        host: the address it is bound to.
        require_keys: whether requests need an API key from the start. Without, everyone is the tenant ``default``
            until the store has a key.
        allow_origins: web origins that browsers may call from; none by default.
        suggestions: what the page suggests to tell the model, each with the question that asks for it.
        max_body: bytes of a request's body, unless the key has a limit of its own.
        max_tokens: tokens of an answer when the request does not say.
        timeout: seconds that a request may take.
        start_fresh: whether a session that another adapter wrote is forgotten with its next turn instead of refused.
        audit: whether who did what is noted in the store.
        upkeep_every: seconds between two times that the server deletes expired sessions and counts the others.
    """

    secret: bytes
    model_name: str = "deltamem"
    host: str = "127.0.0.1"
    require_keys: bool = False
    allow_origins: tuple[str, ...] = ()
    suggestions: tuple[tuple[str, str], ...] = ()
    max_body: int = 4 * 2**20
    max_tokens: int = 256
    timeout: float = 600.0
    start_fresh: bool = False
    audit: bool = False
    upkeep_every: float = 60.0

    def __post_init__(self) -> None:
        if len(self.secret) < 16:
            raise ValueError(f"The secret that signs states has {len(self.secret)} bytes; it needs at least 16.")
        if not self.require_keys and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines and there is no API key. Make one with "
                "'deltamem keys create TENANT', or bind to 127.0.0.1."
            )
        for origin in self.allow_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"--allow-origin {origin} is no web origin: write it as browsers send it, such as "
                    "https://chat.example or http://localhost:3000, with no path and no slash at the end."
                )


@dataclass(frozen=True)
class EngineLimits:
    """How much the engine takes on.

    Attributes:
        max_batch: rows that generate together.
        queue: jobs that may wait beyond those.
        prefill_tokens: prompt tokens fed between two decoded tokens.
        context: positions of a row, prompt and answer; the backbone's own by default.
    """

    max_batch: int = 16
    queue: int = 64
    prefill_tokens: int = 512
    context: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "prefill_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.queue < 0:
            raise ValueError(f"queue must not be negative: {self.queue}.")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
