"""Records of a run: one JSON line a question, appended as it is answered, so that a run can go on where it stopped."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from deltamem.files import write_json
from deltamem_lab.interface import Cost

Key = tuple[str, str, str, str, str, int]
# The folder of a run that has what was trained for it.
TRAINED = "trained"
RUN_FILE = "run.json"
# The protocol of what lm-evaluation-harness asks: its own prompts, before which nothing is read.
HARNESS = "harness"
_LONGEST = 6000
# What answers and scores are made with.
_PACKAGES = (
    "deltamem",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "bm25s",
    "sentence-transformers",
    "llmlingua",
    "lm-eval",
    "langdetect",
    "nltk",
)


@dataclass(frozen=True)
class Record:
    """One answer.

    Attributes:
        subsets: named groups that the question is in.
        gold: the answers that count as right.
        main_metric: the score that the tables show.
        averages: how it is averaged, the published way first.
        prompt: the prompt as the model saw it; of a long one the beginning and the end.
        prompt_hash: SHA-256 of the whole.
        notes: what else the method said.
        model_revision: the commit of the backbone.
        adapter: the fingerprint of what was trained for the method, or nothing.
        versions: of the packages that are installed and may matter.
        axes: the question's numbers that the score is drawn against.
        weights: how much the question counts in the mean of a metric, where that is not 1.
        settings: what the task's scores depend on beside data and protocol, such as the judge.
    """

    task: str
    protocol: str
    item: str
    question: str
    method: str
    seed: int
    category: str
    source: str
    subsets: tuple[str, ...]
    ask: str
    gold: tuple[str, ...]
    output: str
    scores: dict[str, float]
    main_metric: str
    averages: tuple[str, ...]
    prompt: str
    prompt_hash: str
    cost: Cost
    notes: dict[str, Any] = field(default_factory=dict)
    data_revision: str = ""
    model: str = ""
    model_revision: str = ""
    adapter: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    axes: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What no two records of a run share."""
        return (self.task, self.protocol, self.item, self.question, self.method, self.seed)

    @property
    def score(self) -> float:
        """The main metric."""
        return self.scores[self.main_metric]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """The inverse of :meth:`to_json`; fields this version does not know are left out.

        Raises:
            ValueError: the line is not a record.
        """
        try:
            known = {one.name for one in fields(cls)}
            data = {name: value for name, value in json.loads(line).items() if name in known}
            costs = {one.name for one in fields(Cost)}
            data["cost"] = Cost(**{name: value for name, value in data["cost"].items() if name in costs})
            for name in ("subsets", "gold", "averages"):
                data[name] = tuple(data[name])
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from None


def shard_file(folder: Path, shard: int, shards: int) -> Path:
    """Where shard number ``shard`` (from 0) of ``shards`` keeps its records."""
    return folder / ("records.jsonl" if shards == 1 else f"records-{shard}-of-{shards}.jsonl")


def read_run(folder: Path) -> list[Record]:
    """The records of a run, of all its shards, each question once.

    Raises:
        OSError: the folder is not there, or holds no records.
        ValueError: a line that is not the last of its file is damaged; the message names it.
    """
    paths = sorted(folder.glob("records*.jsonl"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no records*.jsonl; make some with: deltamem eval --output {folder}")
    return list({record.key: record for path in paths for record in read_records(path)}.values())


def read_runs(folders: Iterable[Path]) -> list[Record]:
    """The records of several runs that have different questions or methods.

    Raises:
        OSError: a run is not there.
        ValueError: a record is damaged, or two runs answer the same question by the same method.
    """
    found: dict[Key, Record] = {}
    for folder in folders:
        for record in read_run(folder):
            if found.setdefault(record.key, record) != record:
                raise ValueError(
                    f"{folder} and another run have answers to the same questions by the same method ({record.task}, "
                    f"{record.method}); name one of them at a time."
                )
    return list(found.values())


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file; a last line that was cut off by an interruption is left out.

    Raises:
        ValueError: another line is damaged; the message names it.
    """
    lines = path.read_text("utf-8", errors="replace").split("\n")
    # What follows the last line end is empty, or was cut off.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield Record.from_json(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {error}; remove the line, and the question is asked again."
            ) from None


class Writer:
    """Appends records to a file, each flushed as it is written; a last line without an end is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, records: Iterable[Record]) -> None:
        """Appends."""
        for record in records:
            self._file.write(record.to_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file, which is on the disk then."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def clip(text: str) -> str:
    """A text of bounded length: of a long one the beginning and the end."""
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def digest(text: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def package_versions() -> dict[str, str]:
    """The versions of the packages that an answer may depend on, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_same_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Keeps what a run is in ``run.json``, and refuses to mix another into its folder.

    What is a dictionary may grow, as methods, tasks and seeds come; everything else stays.

    Raises:
        ValueError: the folder holds another run; the message says in what it differs.
    """
    path = folder / RUN_FILE
    before: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    differs = list(_differences(before, run)) if before else []
    if differs:
        raise ValueError(f"{folder} holds another run: {'; '.join(differs)}. Choose another --output, or remove it.")
    whole = {
        name: {**before.get(name, {}), **value} if isinstance(value, dict) else value for name, value in run.items()
    }
    if whole != before:
        write_json(path, whole)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        then = before.get(name)
        if isinstance(value, dict) and isinstance(then, dict):
            changed = [key for key in value if key in then and then[key] != value[key]]
            yield from (f"{name} of {key} differ ({then[key]!r} before, {value[key]!r} now)" for key in changed)
        elif then != value:
            yield f"{name} differ ({then!r} before, {value!r} now)"


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
