"""How much an engine takes on, and how much it has on its hands."""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Load:
    """What the engine is doing right now.

    Attributes:
        waiting: jobs that have not begun.
        prefilling: rows whose prompt is being read.
        decoding: rows that generate.
        writing: jobs that write to memory.
    """

    waiting: int
    prefilling: int
    decoding: int
    writing: int
