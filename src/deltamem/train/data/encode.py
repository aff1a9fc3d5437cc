"""Conversations as tokens: the history that is written, what stays visible, and the target, by the chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem.chat import ChatTokens, encode_chat
from deltamem.config import DeltaMemConfig
from deltamem.state import NO_SEGMENT
from deltamem.train.data.lines import Message
from deltamem.train.data.options import DataOptions

# Follows a history that ends with an answer, which some templates render differently while it is the last turn.
_NEXT_TURN: Message = {"role": "user", "content": "?"}

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Tokens:
    """Rendered messages; each field ``[T]``.

    Attributes:
        ids: token ids.
        message: the number of the message a token belongs to, ascending.
        segments: segment ids, -1 for none.
    """

    ids: Numbers
    message: Numbers
    segments: Numbers

    def before(self, message: int) -> int:
        """How many tokens the messages before ``message`` have."""
        return int(np.searchsorted(self.message, message))


@dataclass(frozen=True)
class EncodedEpisode:
    """One target of a conversation.

    Attributes:
        history: how many of the history's tokens come before it.
        read: its visible tokens, cut from the left to fit, the target last.
        target: the place in ``read`` at which the target begins.
        cut: whether ``read`` was cut.
    """

    history: int
    read: Tokens
    target: int
    cut: bool


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
        self.segments = "sentence" if config.write == "sentence" else "message"
        self.plain = plain
        self.rewritten = 0
        self._last: tuple[list[Message], Tokens] = ([], _join([]))

    def encode(self, messages: Sequence[Message]) -> EncodedLine:
        """The episodes of one conversation.

        Raises:
            ValueError: it has no target with a history, or the chat template refuses it.
        """
        lead = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
        targets = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        chosen = targets[-1:] if self.options.target == "final" else targets
        places = [(lead if self.plain else _visible_from(messages, lead, target), target) for target in chosen]
        if self.options.needs_history and not self.plain:
            places = [(start, target) for start, target in places if start > lead]
        if not places:
            raise ValueError(
                "nothing comes before the last turn, so there is nothing to remember "
                "(needs_history=False takes such lines)"
            )
        history = self._history(list(messages[lead : places[-1][0]]))
        episodes, problems = [], []
        for start, target in places:
            visible = [*messages[:lead], *messages[start : target + 1]]
            episode = self._episode(visible, history.before(start - lead))
            if episode.target < 0:
                size = len(episode.read.ids) - episode.target
                problems.append(f"message {target + 1}: the target has {size} tokens, more than read_tokens")
            else:
                episodes.append(episode)
        return EncodedLine(history, tuple(episodes), tuple(problems))

    def _episode(self, visible: list[Message], history: int) -> EncodedEpisode:
        """The episode of the last of the visible messages; its target begins below 0 if it does not fit."""
        tokens = self._render(visible)
        target, cut = tokens.before(len(visible) - 1), max(0, len(tokens.ids) - self.options.read_tokens)
        tokens.segments[target:] = NO_SEGMENT
        read = Tokens(tokens.ids[cut:], tokens.message[cut:], tokens.segments[cut:])
        return EncodedEpisode(history, read, target - cut, cut > 0)

    def _history(self, messages: list[Message]) -> Tokens:
        """The tokens of a history; those of the last one again if it is the same, as for questions on one text."""
        if not messages:
            return _join([])
        if self._last[0] != messages:
            self._last = (messages, self._render_history(messages))
        return self._last[1]

    def _render_history(self, messages: list[Message]) -> Tokens:
        following = [_NEXT_TURN] if messages[-1]["role"] == "assistant" else []
        try:
            whole = self._render([*messages, *following])
        except ValueError:
            # A template that rewrites earlier turns renders a message alone as it does in the middle of a chat.
            self.rewritten += 1
            return _join([self._render([message]) for message in messages])
        end = whole.before(len(messages))
        return Tokens(whole.ids[:end], whole.message[:end], whole.segments[:end])

    def _render(self, messages: list[Message]) -> Tokens:
        from jinja2 import TemplateError

        try:
            chat = encode_chat(
                self.tokenizer,
                messages,
                segments=self.segments,  # type: ignore[arg-type]
                **self.options.template,
            )
        except TemplateError as error:
            raise ValueError(f"the chat template of {self.name} refuses this conversation: {error}") from error
        return _numbers(chat)


def _visible_from(messages: Sequence[Message], lead: int, target: int) -> int:
    """The first turn that stays visible: the last user message before the target, or the target itself."""
    return next((i for i in range(target - 1, lead - 1, -1) if messages[i]["role"] == "user"), target)


def _numbers(chat: ChatTokens) -> Tokens:
    return Tokens(*(row[0].numpy().astype(np.int32) for row in (chat.input_ids, chat.message, chat.segment)))


def _join(parts: list[Tokens]) -> Tokens:
    """Messages rendered one by one, as one text: segments go on counting."""
    ids, message, segments, count = [], [], [], 0
    for number, part in enumerate(parts):
        ids.append(part.ids)
        message.append(np.full_like(part.message, number))
        segments.append(np.where(part.segments == NO_SEGMENT, NO_SEGMENT, part.segments + count))
        count += int(part.segments.max(initial=-1)) + 1
    empty = np.empty(0, np.int32)
    return Tokens(*(np.concatenate([empty, *rows]).astype(np.int32) for rows in (ids, message, segments)))
