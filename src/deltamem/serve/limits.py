"""How much a caller may ask for: a bucket of requests and one of tokens for each API key."""

import time
from dataclasses import dataclass

from deltamem.serve.auth import Caller
from deltamem.serve.errors import too_many


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
            raise too_many("This API key is over its tokens a minute.", "rate_limit_exceeded", tokens.wait(1))
        if requests is None:
            return
        if requests.level < 1:
            raise too_many("This API key is over its requests a minute.", "rate_limit_exceeded", requests.wait(1))
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
