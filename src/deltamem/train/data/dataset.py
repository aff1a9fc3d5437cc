"""Episodes of chat data as a dataset."""

import dataclasses
import hashlib
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from deltamem.config import DeltaMemConfig
from deltamem.train.data.cache import cache_key, default_folder, load_table, save_table, tokenizer_fingerprint
from deltamem.train.data.encode import EpisodeEncoder
from deltamem.train.data.lines import BadDataError, BadLine, RawLine, parse_messages, raw_lines
from deltamem.train.data.options import DataOptions
from deltamem.train.data.table import EpisodeTable, TableBuilder
from deltamem.train.episodes import Episode

# These do not change what the episodes are.
_NOT_IN_KEY = ("on_bad", "cache_dir")
_LISTED = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataReport:
    """What the lines gave.

    Attributes:
        lines: how many lines were read, blank ones not counted.
        episodes: how many episodes they gave.
        skipped: how many lines, or targets of a line, could not be used.
        bad: the first hundred of those, with the reasons.
        cut_histories: how many histories had more than ``write_tokens`` tokens.
        cut_reads: how many visible parts had more than ``read_tokens`` tokens.
        rewritten: how many histories the chat template renders differently from message after message.
        by_message: how many histories it could only render message by message.
    """

    lines: int
    episodes: int
    skipped: int
    bad: tuple[BadLine, ...]
    cut_histories: int
    cut_reads: int
    rewritten: int
    by_message: int

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DataReport":
        """A report from the fields of ``dataclasses.asdict``."""
        return cls(**{**fields, "bad": tuple(BadLine(**bad) for bad in fields["bad"])})


class EpisodeDataset(Dataset[Episode]):
    """The episodes of a source of chat lines, tokenised at the first use and then read from the cache.

    Args:
        options: the source and the rules.
        tokenizer: a fast tokenizer with a chat template.
        config: the adapter's; it tells what a segment is.
        progress: show a progress bar while tokenising.
        plain: the lines are prompts that need no memory: all of a line stays visible, and no history is written.

    Attributes:
        table: the episodes' tokens.
        lengths: the tokens of each episode, written and visible ones together.
        texts: a number for each episode, the same for those whose histories are of one text; a split that keeps
            equal numbers together holds out texts that were never trained on.
        report: what became of the lines.
        digest: a hash of the lines, wherever they lie.
        cached: whether the cache had them.

    Raises:
        BadDataError: the source does not exist, has a bad line (unless ``on_bad`` is ``"skip"``), or gives no episode.
        ValueError: the tokenizer is not fast or has no chat template.
        ImportError: a Hub dataset needs ``datasets``, which is not installed.
    """

    def __init__(
        self,
        options: DataOptions,
        tokenizer: Any,
        config: DeltaMemConfig,
        *,
        progress: bool = False,
        plain: bool = False,
    ) -> None:
        encoder = EpisodeEncoder(tokenizer, options, config, plain=plain)
        count, digest, self.digest = _scan(options)
        if not count:
            raise BadDataError(f"{options.path or options.hub} has no lines.")
        rules = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in _NOT_IN_KEY}
        key = cache_key(digest, tokenizer_fingerprint(tokenizer), encoder.segments, plain, rules)
        file = Path(options.cache_dir or default_folder()).expanduser() / f"{key}.safetensors"
        found = load_table(file)
        self.cached = found is not None
        if found is None:
            table, report = _tokenise(_drawn(options, count, progress), encoder, options)
            save_table(table, dataclasses.asdict(report), file)
        else:
            table, report = found[0], DataReport.from_dict(found[1])
        self.table: EpisodeTable = table
        self.report: DataReport = report
        self.lengths: list[int] = (table.written + table.read).tolist()
        self.texts: list[int] = table.texts.tolist()
        _check(report, options)
        _notify(report, encoder.name)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Episode:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Episode {index} of {len(self)}.")
        return self.table.episode(index)


def _scan(options: DataOptions) -> tuple[int, str, str]:
    """How many lines there are, a hash of them and of where they lie, and one of the lines alone."""
    count, placed, plain = 0, hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for line in raw_lines(options):
        count += 1
        placed.update(f"{line.source}:{line.number}:{line.damage}\n".encode())
        placed.update(line.data)
        plain.update(line.data + b"\n")
    return count, placed.hexdigest(), plain.hexdigest()


def _drawn(options: DataOptions, count: int, progress: bool) -> Iterable[RawLine]:
    """The lines to use, in their order."""
    wanted = min(options.limit or count, count)
    chosen = set(random.Random(options.seed).sample(range(count), wanted))
    lines = (line for number, line in enumerate(raw_lines(options)) if number in chosen)
    if not progress:
        return lines
    from rich.progress import track

    return track(lines, "Tokenising", wanted)


def _tokenise(
    lines: Iterable[RawLine], encoder: EpisodeEncoder, options: DataOptions
) -> tuple[EpisodeTable, DataReport]:
    builder, skipped, count = TableBuilder(options.write_tokens), 0, 0
    bad: list[BadLine] = []
    for line in lines:
        count += 1
        try:
            encoded = encoder.encode(parse_messages(line))
        except ValueError as error:
            problems = [str(error)]
        else:
            builder.add(encoded)
            problems = list(encoded.problems)
        for problem in problems:
            found = BadLine(line.source, line.number, problem)
            if options.on_bad == "stop":
                raise _stopped(found)
            skipped += 1
            if len(bad) < _LISTED:
                bad.append(found)
    table = builder.build()
    report = DataReport(
        lines=count,
        episodes=len(table),
        skipped=skipped,
        bad=tuple(bad),
        cut_histories=builder.cut_histories,
        cut_reads=builder.cut_reads,
        rewritten=encoder.rewritten,
        by_message=encoder.by_message,
    )
    return table, report


def _check(report: DataReport, options: DataOptions) -> None:
    """Refuses a cached report that the options do not allow, and one without episodes."""
    if report.bad and options.on_bad == "stop":
        raise _stopped(report.bad[0])
    if not report.episodes:
        raise BadDataError(f"None of the {report.lines} lines gives an episode; the first: {report.bad[0]}")


def _stopped(bad: BadLine) -> BadDataError:
    return BadDataError(
        f"{bad}. Mend or remove the line, or skip such lines: on_bad: skip in a recipe's data section, "
        "on_bad='skip' in Python."
    )


def _notify(report: DataReport, tokenizer: str) -> None:
    if report.skipped:
        first = report.bad[0]
        _log.warning("Skipped %d lines or targets that could not be used; the first: %s", report.skipped, first)
    if report.rewritten:
        _log.warning(
            "The chat template of %s renders turns of %d histories differently once later ones follow (Qwen3's drops "
            "reasoning from earlier answers). They are written as they look in the middle of a conversation.",
            tokenizer,
            report.rewritten,
        )
    if report.by_message:
        _log.warning(
            "The chat template of %s does not render %d histories as one text (Gemma's wants roles to alternate). They "
            "were rendered message by message. To have them rendered whole, set tokenizer.chat_template to one that "
            "only appends.",
            tokenizer,
            report.by_message,
        )
