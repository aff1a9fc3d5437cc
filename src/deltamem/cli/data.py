"""``deltamem data``: makes training data of published data sets, and checks training data."""

import json
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deltamem.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from deltamem.train.data import EpisodeDataset
    from deltamem.train.data.converters import Example

data = typer.Typer(
    no_args_is_help=True,
    help="Make and check the chat data that adapters are trained on.\n\n"
    "Example: deltamem data check chats.jsonl --tokenizer Qwen/Qwen3-4B-Instruct-2507",
)


make = typer.Typer(
    no_args_is_help=True, help="Make training data.\n\nExample: deltamem data make told told.jsonl --facts 1-4"
)
data.add_typer(make, name="make")


DataKind = Literal[
    "qasper",
    "hotpotqa",
    "locomo",
    "squad",
    "documents",
    "fairytaleqa",
    "mts-dialog",
    "star",
    "synthetic-persona-chat",
    "sharegpt",
    "openai",
]
# The training's own default, and about what English text has.
_KEPT_TOKENS, _CHARACTERS_A_TOKEN = 8192, 4
_Tokenizer = typer.Option(
    "--tokenizer", "--model", help="smollm2, or Hub id or folder of the backbone or its tokenizer."
)


@data.command("convert")
def convert_data(
    kind: Annotated[DataKind, typer.Argument(help="The layout of INPUT.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A .json, .jsonl, .csv or .txt file, or a folder of them.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The .jsonl or .jsonl.gz file to write.")],
    shortest: Annotated[int | None, typer.Option(min=1, help="Keep only this many lines: the shortest.")] = None,
    tokenizer: Annotated[str | None, _Tokenizer] = None,
    ask: Annotated[str | None, typer.Option(help="The visible turn, with {question} in it.")] = None,
    parts: Annotated[bool, typer.Option(help="Give each section, passage, session or paragraph its own turn.")] = False,
    paragraphs: Annotated[
        int, typer.Option(min=2, help="For documents: paragraphs in each line, the target included.")
    ] = 8,
    explicit: Annotated[
        bool, typer.Option(help="For fairytaleqa: only questions whose answer is in the text.")
    ] = False,
    seed: Annotated[int, typer.Option(help="For star: seed for drawing new values.")] = 0,
) -> None:
    """Convert a published data set to training lines.

    Each line has what is to be remembered, then a question, then its answer. Lengths are in characters, or in tokens
    with --tokenizer. sharegpt and openai (logs of requests with their answers, or lines for fine-tuning) stay
    conversations.

    Example: deltamem data convert qasper qasper-train-v0.3.json qasper.jsonl --shortest 2219
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder.")
    from rich.progress import track

    from deltamem.models.loading import load_tokenizer
    from deltamem.train.data.converters import Style, convert

    done = convert(
        kind,
        source,
        target,
        ask=ask,
        style=Style(parts=parts, paragraphs=paragraphs, explicit=explicit, seed=seed),
        shortest=shortest,
        progress=lambda rows: track(rows, "Converting", transient=True),
        measure=attrgetter("characters") if tokenizer is None else partial(_count_tokens, load_tokenizer(tokenizer)),
    )
    size, unit = target.stat().st_size / 1e6, "tokens" if tokenizer is not None else "characters"
    print(f"Wrote {target}: {counted(done.lines, 'line')} from {counted(done.rows, 'row')}, {size:,.1f} MB.")
    if done.longest > _KEPT_TOKENS * (1 if tokenizer is not None else _CHARACTERS_A_TOKEN):
        print(
            f"The longest line has {done.longest:,} {unit}. Training keeps the last write_tokens ({_KEPT_TOKENS:,}) of "
            "a history, and cuts answers from further back away: raise write_tokens, or give --shortest."
        )
    for reason, count in sorted(done.skipped.items()):
        print(f"Skipped {count:,}: {reason}.")
    if done.longer:
        print(f"Left out {done.longer:,} longer lines.")


@make.command("told")
def make_told(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The .jsonl or .jsonl.gz file to write.")],
    split: Annotated[
        Literal["train", "known", "values", "relations"],
        typer.Option(help="What is held out: nothing (train), wordings and names, values too, or whole relations."),
    ] = "train",
    dialogues: Annotated[int, typer.Option(min=1, help="How many dialogues.")] = 1000,
    facts: Annotated[str, typer.Option(metavar="A-B", help="Facts in each dialogue: the fewest and the most.")] = "1-4",
    corrected: Annotated[float, typer.Option(help="Share of facts that are corrected later.")] = 0.1,
    unknown: Annotated[float, typer.Option(help="Questions about untold facts, for each told fact.")] = 0.1,
    talk: Annotated[float, typer.Option(help="Exchanges of small talk for each fact.")] = 0.2,
    strict: Annotated[
        bool, typer.Option(help="Also keep held-out values out of parts of other values and out of wordings.")
    ] = False,
    chat: Annotated[
        str | None, typer.Option(metavar="PATH", help="Real chat to put between the facts: JSON lines of messages.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=64, help="With --chat: about how many tokens a history has, at most.")
    ] = 2048,
    tokenizer: Annotated[str | None, _Tokenizer] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other dialogues.")] = 0,
) -> None:
    """Make dialogues in which people tell facts, with questions about them.

    Each line has a dialogue, a question and its answer, and what was told about whom. With --chat the facts are told
    within real chat; --tokenizer counts its length.

    Example: deltamem data make told told.jsonl --dialogues 5000 --facts 1-4
    """
    from deltamem.models.loading import load_tokenizer
    from deltamem.train.data.lines import write_lines
    from deltamem.train.data.told.chats import Chats, conversations
    from deltamem.train.data.told.dialogues import Mix
    from deltamem.train.data.told.lines import told_lines
    from deltamem.train.data.told.rendering import Renderer

    mix = Mix(facts=_range(facts), corrected=corrected, unknown=unknown, talk=talk, strict=strict)
    chats = None
    if chat is not None and tokenizer is not None:
        chats = Chats(conversations(chat), Renderer(load_tokenizer(tokenizer)).count)
    elif chat is not None or tokenizer is not None:
        raise ValueError("--chat and --tokenizer go together: the tokenizer counts how long the chat is.")
    lines = write_lines(target, told_lines(dialogues, mix, split, seed=seed, chats=chats, tokens=tokens))
    print(f"Wrote {target}: {counted(lines, 'line')}, questions about {counted(dialogues, 'dialogue')}.")


@make.command("replies")
def make_replies(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The .jsonl or .jsonl.gz file to write.")],
    model: Annotated[str, typer.Option(help="smollm2, or Hub id or folder of the backbone.")],
    chat: Annotated[str, typer.Option(metavar="PATH", help="Conversations to answer: JSON lines of messages.")],
    count: Annotated[int, typer.Option(min=1, help="How many conversations.")] = 500,
    told: Annotated[float, typer.Option(help="Share of conversations in which somebody tells a fact.")] = 0.25,
    asked: Annotated[float, typer.Option(help="Share in which somebody tells facts and asks for one of them.")] = 0.0,
    characters: Annotated[int, typer.Option(min=1, help="The longest part of a conversation, in characters.")] = 200,
    tokens: Annotated[int, typer.Option(min=1, help="The longest reply, in tokens.")] = 32,
    seed: Annotated[int, typer.Option(help="Another seed, other conversations and replies.")] = 0,
) -> None:
    """Let a backbone answer ordinary messages, so that a training can preserve its replies.

    The lines are for a recipe's objective.preservation: what the model says when it needs no memory.

    Example: deltamem data make replies replies.jsonl --model smollm2 --chat chats.jsonl
    """
    from deltamem.models.loading import load_tokenizer, load_weights
    from deltamem.train.data.lines import write_lines
    from deltamem.train.data.replies import Prompts, replied
    from deltamem.train.data.told.chats import conversations

    prompts = Prompts(count=count, told=told, asked=asked, characters=characters, seed=seed).draw(conversations(chat))
    answered = replied(load_weights(model), load_tokenizer(model), prompts, tokens=tokens, seed=seed)
    print(f"Wrote {target}: {write_lines(target, answered):,} conversations.")


@make.command("told-replies")
def make_told_replies(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The .jsonl or .jsonl.gz file to write.")],
    model: Annotated[str, typer.Option(help="smollm2, or Hub id or folder of the backbone.")],
    count: Annotated[int, typer.Option(min=1, help="How many facts it is told.")] = 2000,
    tokens: Annotated[int, typer.Option(min=1, help="The longest reply, in tokens.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, other facts.")] = 0,
) -> None:
    """Tell a backbone facts, one at a time, and keep what it replies, errors too.

    The lines are for a recipe's data.options.replies: a memory learns to keep facts among such replies.

    Example: deltamem data make told-replies told_replies.jsonl --model smollm2
    """
    from deltamem.models.loading import load_tokenizer, load_weights
    from deltamem.train.data.lines import write_lines
    from deltamem.train.data.told.replies import told_replies

    lines = told_replies(load_weights(model), load_tokenizer(model), count, tokens=tokens, seed=seed)
    print(f"Wrote {target}: {counted(write_lines(target, lines), 'line')}.")


def _range(text: str) -> tuple[int, int]:
    """Two numbers, such as ``1-4``, or one for both."""
    fewest, _, most = text.partition("-")
    try:
        return int(fewest), int(most or fewest)
    except ValueError:
        raise ValueError(f"--facts must be two numbers, such as 1-4, or one, not {text!r}.") from None


@data.command("check")
def check_data(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file, folder or glob; a dataset's id with --hub.")],
    tokenizer: Annotated[str, _Tokenizer],
    hub: Annotated[bool, typer.Option("--hub", help="FILE is a dataset on the Hub.")] = False,
    revision: Annotated[str | None, typer.Option(help="The Hub dataset's revision.")] = None,
    split: Annotated[str, typer.Option(help="The Hub dataset's split.")] = "train",
    target: Annotated[Literal["final", "every"], typer.Option(help="Which assistant turns to learn.")] = "final",
    write: Annotated[
        str, typer.Option(help="The adapter's write strategy: token, message, sentence or your own.")
    ] = "token",
    write_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to write; the last are kept.")] = 8192,
    read_tokens: Annotated[int, typer.Option(min=1, help="The most visible tokens; the last are kept.")] = 512,
    plain: Annotated[bool, typer.Option("--plain", help="The lines need no memory: nothing is written.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Check only this many lines, drawn at random.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check training data: counts, lengths in tokens, what is cut, and which lines are bad.

    It fails if a line is bad. The training reuses what is tokenised here.

    Example: deltamem data check chats.jsonl --tokenizer Qwen/Qwen3-4B-Instruct-2507 --target every
    """
    from deltamem.models.catalog import find_source

    find_source(tokenizer)
    if not (hub or set(source) & set("*?[") or Path(source).expanduser().exists()):
        raise FileNotFoundError(f"{source}: no such file.")
    from deltamem.config import DeltaMemConfig
    from deltamem.models.loading import load_tokenizer
    from deltamem.train.data import DataOptions, EpisodeDataset

    options = DataOptions(
        path=None if hub else source,
        hub=source if hub else None,
        revision=revision,
        split=split,
        target=target,
        write_tokens=write_tokens,
        read_tokens=read_tokens,
        on_bad="skip",
        limit=limit,
    )
    loaded = load_tokenizer(tokenizer)
    config = DeltaMemConfig(write=write)
    found = EpisodeDataset(options, loaded, config, progress=not as_json, plain=plain)
    if as_json:
        print(json.dumps({**asdict(found.report), "tokens": _lengths(found)}, indent=2, ensure_ascii=False))
    else:
        _print_report(found)
    if found.report.skipped:
        raise typer.Exit(1)


def _count_tokens(tokenizer: Any, line: "Example") -> int:
    """The length of a training line in tokens, without what a chat template adds."""
    texts = [message["content"] for message in line.messages]
    return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def _lengths(found: "EpisodeDataset") -> dict[str, dict[str, int]]:
    table = found.table
    return {"written": _spread(table.written), "visible": _spread(table.read), "target": _spread(table.trained)}


def _spread(lengths: "Tensor") -> dict[str, int]:
    ordered = lengths.sort().values
    places = {"least": 0.0, "median": 0.5, "95 %": 0.95, "most": 1.0}
    values = {name: int(ordered[round(place * (len(ordered) - 1))]) for name, place in places.items()}
    return {**values, "total": int(lengths.sum())}


def _print_report(found: "EpisodeDataset") -> None:
    from rich.console import Console
    from rich.table import Table

    report, console = found.report, Console()
    console.print(
        f"{counted(report.lines, 'line')}, {counted(report.episodes, 'episode')}, {report.skipped:,} bad",
        highlight=False,
    )
    table = Table("tokens")
    lengths = _lengths(found)
    for heading in lengths["written"]:
        table.add_column(heading, justify="right")
    for name, spread in lengths.items():
        table.add_row(name, *(f"{value:,}" for value in spread.values()))
    console.print(table)
    console.print(f"Cut from the left: {report.cut_histories:,} histories, {report.cut_reads:,} visible parts.")
    for bad in report.bad:
        console.print(str(bad), style="red", markup=False, highlight=False, soft_wrap=True)
    if report.skipped > len(report.bad):
        console.print(f"… and {report.skipped - len(report.bad):,} more.")
