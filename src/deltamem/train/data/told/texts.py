"""Real texts with questions about them, to be trained beside the told facts."""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from deltamem.chat import Message
from deltamem.train.data.lines import BadDataError, find_files, parse_messages, raw_lines
from deltamem.train.data.options import DataOptions

# Of one text in an update.
_QUESTIONS = 6


class AskedText(NamedTuple):
    """What is read, and the questions about it with their answers."""

    history: tuple[Message, ...]
    questions: tuple[tuple[str, str], ...]


def asked_texts(lines: Iterable[Sequence[Message]]) -> list[AskedText]:
    """Lines that end with a question and its answer as texts; those with the same history are one."""
    questions: dict[tuple[tuple[str, str], ...], list[tuple[str, str]]] = {}
    for *history, ask, answer in lines:
        said = tuple((message["role"], message["content"]) for message in history)
        questions.setdefault(said, []).append((ask["content"], answer["content"]))
    return [
        AskedText(tuple({"role": role, "content": content} for role, content in said), tuple(asked))
        for said, asked in questions.items()
    ]


class Texts:
    """Texts to be drawn from: each file equally often, each text of a file too.

    Args:
        path: JSON lines as ``deltamem data convert`` writes them, whose last two messages are a question and its
            answer: a file, a folder or a glob pattern. Lines with the same history are one text.
        count: how many tokens a message has.
        longest: leave out texts with more tokens.

    Raises:
        BadDataError: a line is bad, or a file has no text that is short enough.
    """

    def __init__(self, path: str | Path, count: Callable[[Message], int], longest: int) -> None:
        self._files = [_texts(file, count, longest) for file in find_files(path)]

    def draw(self, rng: random.Random) -> AskedText:
        """A text with at most six of its questions."""
        text = rng.choice(rng.choice(self._files))
        return text._replace(questions=tuple(rng.sample(text.questions, min(_QUESTIONS, len(text.questions)))))


def _texts(file: Path, count: Callable[[Message], int], longest: int) -> Sequence[AskedText]:
    lines: list[list[Message]] = []
    for line in raw_lines(DataOptions(path=file)):
        try:
            messages = parse_messages(line)
        except ValueError as error:
            raise BadDataError(f"{line.source}:{line.number}: {error}.") from None
        if [message["role"] for message in messages[-2:]] != ["user", "assistant"] or len(messages) < 3:
            raise BadDataError(
                f"{line.source}:{line.number}: needs a text, a question of the user and the assistant's answer, as "
                "`deltamem data convert` writes them."
            )
        lines.append(messages)
    short = [text for text in asked_texts(lines) if sum(map(count, text.history)) <= longest]
    if not short:
        raise BadDataError(f"{file} has no text of at most {longest} tokens.")
    return short
