"""Where training data lies and how it becomes episodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_CHOICES = {"target": ("final", "every"), "on_bad": ("stop", "skip")}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """A source of chat lines, and the rules that turn them into episodes.

    Give either ``path`` or ``hub``. A line is an object with ``messages`` or with ``prompt`` and ``response``.

    Attributes:
        path: a ``.jsonl`` or ``.jsonl.gz`` file, a folder of them (searched to any depth), or a glob pattern.
        hub: the id of a dataset on the Hugging Face Hub, or a folder that ``datasets`` can load.
        subset: the configuration of a Hub dataset that has several.
        revision: the commit, tag or branch of a Hub dataset.
        split: the split of a Hub dataset.
        write_tokens: the most tokens of history that are written; the last ones are kept.
        read_tokens: the most visible tokens, the target's included; the last ones are kept, the target always whole.
        target: ``"final"``: the last assistant turn of a line. ``"every"``: each assistant turn with a history
            before it, one episode each.
        needs_history: whether a target with nothing to remember before its last turn is a bad line.
        on_bad: at a bad line ``"stop"`` with an error or ``"skip"`` and count it.
        template: further variables of the chat template, such as ``enable_thinking``.
        limit: use at most so many lines, drawn at random.
        seed: another seed, other lines drawn.
        cache_dir: where tokenised data is kept; ``~/.cache/deltamem/episodes`` if not given.

    Raises:
        ValueError: a field has an impossible value; the message names it.
    """

    path: str | Path | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    write_tokens: int = 8192
    read_tokens: int = 512
    target: Literal["final", "every"] = "final"
    needs_history: bool = True
    on_bad: Literal["stop", "skip"] = "stop"
    template: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.hub is None):
            raise ValueError("Data needs either path (a file, folder or glob) or hub (a dataset's id), and not both.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, not {getattr(self, name)!r}.")
        for name in ("write_tokens", "read_tokens", "limit"):
            value = getattr(self, name)
            if value is None and name == "limit":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}.")
