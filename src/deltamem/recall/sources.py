"""Which turn wrote an answer into a memory, which of its words, and which messages say a text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from deltamem.attribution import write_shares_of
from deltamem.chat import ChatTokens, Message
from deltamem.chat.document import encode_document
from deltamem.chat.input import TextInput, WriteInput
from deltamem.chat.words import CJK, comparable, phrase
from deltamem.recall.evidence import Interview
from deltamem.state import MemoryState

MOST_TRACED = 4096
_SPACED = rf"[^\W{CJK}]"  # a character of a word, in a script that marks words


@dataclass(frozen=True)
class WrittenTurn:
    """Messages that were written to a memory.

    Attributes:
        messages: what was said.
        tokens: the same as tokens.
        written: the same as what was written.
        before: the memory that they were written to, one row.
    """

    messages: Sequence[Message]
    tokens: ChatTokens
    written: WriteInput
    before: MemoryState

    @classmethod
    def of(
        cls, text: TextInput, messages: Sequence[Message], before: MemoryState, roles: Sequence[str] | None = None
    ) -> "WrittenTurn":
        """The turn that wrote the messages of some roles to a memory."""
        tokens = text.encode_to_write(messages)
        return cls(messages, tokens, WriteInput.of(tokens, messages, roles), before)

    @classmethod
    def of_document(cls, text: TextInput, document: str, before: MemoryState) -> "WrittenTurn":
        """The turn that wrote a document to a memory."""
        tokens = ChatTokens.joined(list(encode_document(text.tokenizer, [document], segments=text.segments)))
        messages: list[Message] = [{"role": "user", "content": document}]
        return cls(messages, tokens, WriteInput.of(tokens, messages), before)

    @property
    def length(self) -> int:
        """T, its number of tokens."""
        return self.written.ids.shape[1]


@dataclass(frozen=True)
class SourceMessage:
    """A message, token by token.

    Attributes:
        role: whose.
        tokens: the text of each token, and its share of the answer's evidence. A share may be
            negative: then the token speaks for another answer.
    """

    role: str
    tokens: tuple[tuple[str, float], ...]

    @property
    def content(self) -> str:
        """Its text."""
        return "".join(text for text, _ in self.tokens)


@dataclass(frozen=True)
class Source:
    """Where an answer came from.

    Attributes:
        turn: the number of the turn that wrote most of the answer's evidence, among those that were looked at.
        share: its share of the evidence: of how much likelier the memory makes the answer than an empty one does.
        messages: what was said in it.
    """

    turn: int
    share: float
    messages: tuple[SourceMessage, ...]


def find_sources(
    interview: Interview,
    asked: Sequence[tuple[str, str]],
    state: MemoryState,
    turns: Sequence[WrittenTurn],
    *,
    check: Callable[[], None] = lambda: None,
) -> list[Source | None]:
    """For each question and answer the turn that wrote most of its evidence.

    Args:
        interview: what the answers were given in.
        asked: questions and their answers.
        state: the memory that gave the answers, one row.
        turns: what was written, one after the other; the last left ``state``. Of them the latest are looked at that
            have 4,096 tokens together.
        check: called between two steps; what it raises ends the search.

    Returns:
        ``None`` where there is no turn, or none speaks for the answer.
    """
    probes = []
    for question, answer in asked:
        check()
        probes.append(interview.probe(question, answer, state))
    evidence = [max(probe.of(state), 1e-9) for probe in probes]
    best: list[Source | None] = [None] * len(asked)
    length = 0
    for number in range(len(turns) - 1, -1, -1) if asked else ():
        turn = turns[number]
        length += turn.length
        if length > MOST_TRACED:
            break
        check()
        ids, segments, write = turn.written
        found = write_shares_of(interview.model, ids, turn.before, probes, segment_ids=segments, write=write)
        for place, written in enumerate(found):
            shares = written.tokens / evidence[place]
            share, so_far = float(shares.sum()), best[place]
            if share > (0.0 if so_far is None else so_far.share):
                best[place] = Source(number, share, _messages(turn, shares))
        probes = [written.probe for written in found]
    return best


def _messages(turn: WrittenTurn, shares: Tensor) -> tuple[SourceMessage, ...]:
    """The messages of a turn with their tokens' ``shares`` ``[T]``."""
    return tuple(
        SourceMessage(
            message["role"], tuple((text, float(shares[place])) for place, text in turn.tokens.content(number))
        )
        for number, message in enumerate(turn.messages)
    )


def says(messages: Sequence[Message], *phrases: str) -> bool:
    """Whether one of some messages has all of some phrases in it, as whole words.

    Case does not count, nor do differences between compatible characters, or what ends a sentence. In Chinese and
    Japanese characters and in Hangul, which mark no words, a phrase may stand anywhere.

    Raises:
        ValueError: there is no phrase, or one has no words.
    """
    patterns = [_pattern(text) for text in phrases]
    if not patterns:
        raise ValueError("Give a phrase to look for.")
    texts = (" ".join(comparable(message["content"]).split()) for message in messages)
    return any(all(pattern.search(text) for pattern in patterns) for text in texts)


@lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    wanted = phrase(text)
    if not wanted:
        raise ValueError("An empty text says nothing: give words of what is to be forgotten.")
    return re.compile(rf"(?<!{_SPACED}){re.escape(wanted)}(?!{_SPACED})")
