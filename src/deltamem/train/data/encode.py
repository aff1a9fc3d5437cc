"""Conversations as tokens: the history that is written, what stays visible, and the target, by the chat template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem.chat import ChatTokens, Message, TemplateRefusedError, encode_chat, encode_to_write
from deltamem.config import DeltaMemConfig
from deltamem.state import NO_SEGMENT
from deltamem.train.data.options import DataOptions
from deltamem.train.episodes import UNWRITTEN

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Tokens:
    """Rendered messages; each field ``[T]``.

    Attributes:
        ids: token ids.
        message: the number of the message a token belongs to; -1 for what the template puts before the first.
        segments: segment ids, -1 for none and -2 for what is not written.
    """

    ids: Numbers
    message: Numbers
    segments: Numbers

    def before(self, message: int) -> int:
        """How many tokens the messages before ``message`` have."""
        later = np.flatnonzero(self.message >= message)
        return int(later[0]) if len(later) else len(self.message)

    def __getitem__(self, part: slice) -> "Tokens":
        return Tokens(self.ids[part], self.message[part], self.segments[part])


_NOTHING = Tokens(*(np.empty(0, np.int32) for _ in range(3)))


@dataclass(frozen=True)
class FullText:
    """What a target comes after when nothing is hidden: ``before``, the end of the history, then ``after``.

    Attributes:
        before: what the whole conversation has before that.
        shared: how many of the last tokens of the episode's history come next.
        after: the visible turns, and the target as the episode reads it.
        target: the place in ``after`` at which the target begins.
    """

    before: Tokens
    shared: int
    after: Tokens
    target: int


@dataclass(frozen=True)
class EncodedEpisode:
    """One target of a conversation.

    Attributes:
        history: how many of the history's tokens come before it.
        read: its visible tokens, cut from the left to fit, the target last.
        target: the place in ``read`` at which the target begins.
        cut: whether ``read`` was cut.
        full: the same target after the whole conversation; none where nothing is history on purpose.
    """

    history: int
    read: Tokens
    target: int
    cut: bool
    full: FullText | None = None


@dataclass(frozen=True)
class EncodedLine:
    """The episodes of a conversation. Their histories are beginnings of one text.

    Attributes:
        history: everything that some episode writes.
        episodes: one for each target.
        problems: for each target that could not be used, why.
    """

    history: Tokens
    episodes: tuple[EncodedEpisode, ...]
    problems: tuple[str, ...]


class EpisodeEncoder:
    """Turns conversations into tokens.

    The target of an episode is an assistant turn exactly as the chat template renders it, header and end token
    included. Visible before it are the leading system messages and the turns from the last user message on.
    All else before it is history, rendered as a conversation of its own.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        options: limits, targets and template variables.
        config: tells whether sentences or messages are segments.
        plain: whether everything before a target stays visible instead, and nothing is history.

    Attributes:
        rewritten: how many histories the template renders otherwise than message after message.
        by_message: how many it could only render message by message.

    Raises:
        ValueError: the tokenizer is not fast or has no chat template.
    """

    def __init__(self, tokenizer: Any, options: DataOptions, config: DeltaMemConfig, *, plain: bool = False) -> None:
        self.name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if not getattr(tokenizer, "is_fast", False) or not tokenizer.chat_template:
            raise ValueError(
                f"Training data needs a fast tokenizer with a chat template, and {self.name} is not one; "
                "use an instruction-tuned model's tokenizer or set tokenizer.chat_template."
            )
        self.tokenizer = tokenizer
        self.options = options
        self.segments = config.write if config.writes_segments else "message"
        self.plain = plain
        self.rewritten = 0
        self.by_message = 0
        self._last: tuple[list[Message], Tokens] = ([], _NOTHING)

    def encode(self, messages: Sequence[Message]) -> EncodedLine:
        """The episodes of one conversation.

        Raises:
            ValueError: it has no target with a history, or the chat template refuses it.
        """
        lead = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
        # An answer that only calls tools has no words to learn.
        targets = [i for i, one in enumerate(messages) if one["role"] == "assistant" and one["content"].strip()]
        chosen = targets[-1:] if self.options.target == "final" else targets
        places = [(lead if self.plain else _visible_from(messages, lead, target), target) for target in chosen]
        if self.options.needs_history and not self.plain:
            places = [(start, target) for start, target in places if start > lead]
        if not places:
            raise ValueError(
                "nothing comes before the last turn, so there is nothing to remember (needs_history: false in a "
                "recipe's data section takes such lines; deltamem data check --plain checks lines that need no memory)"
            )
        history = self._history(list(messages[lead : places[-1][0]]))
        whole = None if self.plain else self._whole(list(messages[: places[-1][1] + 1]))
        episodes, problems = [], []
        for start, target in places:
            visible = [*messages[:lead], *messages[start : target + 1]]
            episode = self._episode(visible, history.before(start - lead))
            if episode.target < 0:
                size = len(episode.read.ids) - episode.target
                problems.append(f"message {target + 1}: the target has {size} tokens, more than read_tokens")
            elif self.plain:
                episodes.append(episode)
            else:
                told = history[max(0, episode.history - self.options.write_tokens) : episode.history]
                full = self._full(whole, told, episode, start, target) if whole else self._joined(told, episode)
                episodes.append(replace(episode, full=full))
        return EncodedLine(history, tuple(episodes), tuple(problems))

    def _episode(self, visible: list[Message], history: int) -> EncodedEpisode:
        """The episode of the last of the visible messages; its target begins below 0 if it does not fit."""
        tokens = self._render(visible)
        target, cut = tokens.before(len(visible) - 1), max(0, len(tokens.ids) - self.options.read_tokens)
        tokens.segments[target:] = NO_SEGMENT
        return EncodedEpisode(history, tokens[cut:], target - cut, cut > 0)

    def _whole(self, messages: list[Message]) -> Tokens | None:
        """The tokens of a conversation with nothing hidden; ``None`` if the template does not render it as one."""
        try:
            return self._render(messages)
        except ValueError:
            return None

    def _full(self, whole: Tokens, told: Tokens, episode: EncodedEpisode, start: int, target: int) -> FullText:
        """What comes before a target in the whole conversation, its history and visible part cut as the episode's are.

        What the whole and the visible part both begin with stays in any case: BOS, and the system message.
        """
        first_visible, end = whole.before(start), whole.before(target)
        answer = episode.read[episode.target :]
        opening = _common(whole.ids[:first_visible], episode.read.ids[: episode.target])
        first = max(opening, first_visible - self.options.write_tokens)
        shared = _common(whole.ids[first:first_visible][::-1], told.ids[::-1])
        visible = max(first_visible, end - (self.options.read_tokens - len(answer.ids)))
        before = _concatenated(whole[:opening], whole[first : first_visible - shared])
        return FullText(before, shared, _concatenated(whole[visible:end], answer), end - visible)

    def _joined(self, told: Tokens, episode: EncodedEpisode) -> FullText:
        """The history and the visible part one after the other, for a template that refuses the whole conversation."""
        # The opening comes before the history, as it comes before any text.
        opening = episode.read.before(0)
        before, after = episode.read[:opening], episode.read[opening:]
        if not len(told.ids) or opening > episode.target:
            before, after = _NOTHING, episode.read
        skipped = len(episode.read.ids) - len(after.ids)
        count = int(told.segments.max(initial=-1)) + 1
        segments = np.where(after.segments < 0, after.segments, after.segments + count)
        return FullText(before, len(told.ids), replace(after, segments=segments), episode.target - skipped)

    def _history(self, messages: list[Message]) -> Tokens:
        """The tokens of a history; those of the last one again if it is the same, as for questions on one text."""
        if not messages:
            return _NOTHING
        if self._last[0] != messages:
            chat = self._told(encode_to_write, messages)
            self.by_message += chat.apart
            self.rewritten += chat.rewritten
            self._last = (messages, _numbers(chat, messages))
        return self._last[1]

    def _render(self, messages: list[Message]) -> Tokens:
        return _numbers(self._told(encode_chat, messages), messages)

    def _told(self, encode: Callable[..., ChatTokens], messages: list[Message]) -> ChatTokens:
        try:
            return encode(self.tokenizer, messages, segments=self.segments, **self.options.template)
        except TemplateRefusedError as error:
            reason = error.__cause__
            raise ValueError(f"the chat template of {self.name} refuses this conversation: {reason}") from error


def _visible_from(messages: Sequence[Message], lead: int, target: int) -> int:
    """The first turn that stays visible: the last user message before the target, or the target itself."""
    return next((i for i in range(target - 1, lead - 1, -1) if messages[i]["role"] == "user"), target)


def _numbers(chat: ChatTokens, messages: Sequence[Message]) -> Tokens:
    tokens = Tokens(*(row[0].numpy().astype(np.int32) for row in (chat.input_ids, chat.message, chat.segment)))
    spoken = [number for number, message in enumerate(messages) if message["role"] != "system"]
    tokens.segments[~np.isin(tokens.message, spoken)] = UNWRITTEN
    return tokens


def _common(one: Numbers, other: Numbers) -> int:
    """How many tokens both begin with."""
    size = min(len(one), len(other))
    same = one[:size] == other[:size]
    return size if same.all() else int(same.argmin())


def _concatenated(*parts: Tokens) -> Tokens:
    """Parts of one text, or of two that number their messages and segments alike."""
    rows = ([getattr(part, name) for part in parts] for name in ("ids", "message", "segments"))
    return Tokens(*map(np.concatenate, rows))
