"""What the server measures of itself, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deltamem.serve.engine.jobs import Load

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "deltamem_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.stream_errors = Counter(
            "deltamem_stream_errors", "Streams that ended in an error.", ["code"], registry=self.registry
        )
        self.latency = Histogram(
            "deltamem_request_seconds",
            "Seconds until an answer was complete.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "deltamem_first_token_seconds", "Seconds until the first token.", buckets=_SECONDS, registry=self.registry
        )
        self.rate = Histogram(
            "deltamem_tokens_per_second",
            "Tokens a second of one generation.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self.registry,
        )
        self.tokens = Counter(
            "deltamem_tokens", "Tokens read, generated, and written to memory.", ["kind"], registry=self.registry
        )
        self.batch = Histogram(
            "deltamem_batch_rows",
            "Rows decoded together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.busy = Counter("deltamem_engine_seconds", "Seconds the engine's thread worked.", registry=self.registry)
        self.writes = Counter(
            "deltamem_state_writes", "Versions committed to the store.", ["kind"], registry=self.registry
        )
        self.conflicts = Counter(
            "deltamem_conflicts", "Commits that another writer forestalled.", registry=self.registry
        )
        self.sessions = Gauge(
            "deltamem_sessions", "Sessions in the store, counted every minute.", registry=self.registry
        )
        self.busy_sessions = Gauge("deltamem_sessions_busy", "Sessions with a turn under way.", registry=self.registry)
        self.webhooks = Counter(
            "deltamem_webhooks", "Attempts to tell a webhook, by outcome.", ["outcome"], registry=self.registry
        )
        self._load = Gauge("deltamem_jobs", "Jobs in the engine.", ["stage"], registry=self.registry)

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
