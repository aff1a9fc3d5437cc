"""What the server measures of itself, for Prometheus."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deltamem.serve.engine.jobs import Load

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("deltamem_requests", "Requests answered.", ["route", "method", "status"])
        self.stream_errors = counter("deltamem_stream_errors", "Streams that ended in an error.", ["code"])
        self.latency = histogram(
            "deltamem_request_seconds", "Seconds until an answer was complete.", ["route"], buckets=_SECONDS
        )
        self.first_token = histogram("deltamem_first_token_seconds", "Seconds until the first token.", buckets=_SECONDS)
        self.rate = histogram(
            "deltamem_tokens_per_second",
            "Tokens a second of one generation.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        )
        self.tokens = counter("deltamem_tokens", "Tokens read, generated, and written to memory.", ["kind"])
        self.batch = histogram("deltamem_batch_rows", "Rows decoded together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
        self.busy = counter("deltamem_engine_seconds", "Seconds the engine's thread worked.")
        self.writes = counter("deltamem_state_writes", "Versions committed to the store.", ["kind"])
        self.conflicts = counter("deltamem_conflicts", "Commits that another writer forestalled.")
        self.sessions = gauge("deltamem_sessions", "Sessions in the store, counted every minute.")
        self.busy_sessions = gauge("deltamem_sessions_busy", "Sessions with a turn under way.")
        self.webhooks = counter("deltamem_webhooks", "Attempts to tell a webhook, by outcome.", ["outcome"])
        self._load = gauge("deltamem_jobs", "Jobs in the engine.", ["stage"])

    def engine_turn(self, rows: int, seconds: float) -> None:
        """Notes a turn of the engine's loop."""
        if rows:
            self.batch.observe(rows)
        self.busy.inc(seconds)

    def expose(self, load: Callable[[], Load]) -> bytes:
        """Everything in Prometheus' text format."""
        for stage, count in vars(load()).items():
            self._load.labels(stage).set(count)
        return generate_latest(self.registry)
