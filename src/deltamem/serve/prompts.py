"""Messages as the tokens of a prompt, and as the tokens that a turn writes."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deltamem.chat import ChatTokens, Message
from deltamem.chat.input import TextInput, WriteInput
from deltamem.chat.template import render_text
from deltamem.chat.tokens import check_text
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.tools import explained, knows_tools, syntax_of


class Prompts:
    """Encodes for one model.

    Args:
        text: the model and its tokenizer; chat needs a template.
        context: positions for prompt and answer.

    Attributes:
        source: the model and its tokenizer.
        vocabulary: how many tokens there are.
        syntax: how the model writes calls of tools.
        knows_tools: whether its chat template tells it of tools.
    """

    def __init__(self, text: TextInput, context: int) -> None:
        self.source = text
        self._tokenizer = text.tokenizer
        self._context = context
        self.vocabulary = len(text.tokenizer)
        template = str(getattr(text.tokenizer, "chat_template", None) or "")
        self.syntax = syntax_of(template)
        self.knows_tools = knows_tools(template)

    def chat(
        self, messages: Sequence[Message], *, shorten: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], int]:
        """The prompt's tokens, and how many messages were left out of it.

        Args:
            messages: all of them.
            shorten: leave out the oldest messages, but no system message nor the last, until there is room. What
                stays begins with a user's message: an answer without its question misleads the model, and many
                templates refuse it.
            tools: those that the prompt describes, as chat templates take them.

        Raises:
            ApiError: the messages cannot be rendered, or do not fit.
        """
        messages, tools = self._told(messages, tools)
        ids = self._render(messages, tools)
        if len(ids) < self._context:
            return ids, 0
        cuts = _cuts(messages) if shorten else []

        def fits(count: int) -> bool:
            nonlocal ids
            try:
                ids = self._render(without_oldest(messages, count), tools)
            except ApiError:  # a template that begins with a user's message refuses a last one of another's
                return False
            return len(ids) < self._context

        place = bisect_left(cuts, True, key=fits)
        if place < len(cuts) and fits(cuts[place]):
            return ids, cuts[place]
        raise ApiError(
            400,
            f"The messages have {len(ids)} tokens, and the model has {self._context} positions for prompt and "
            "answer. Write long texts with POST /v1/sessions/{session}/observe and ask about them.",
            "context_length_exceeded",
            "messages",
        )

    def count(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """How many tokens the prompt of all messages has, whether there is room for it or not.

        Raises:
            ApiError: the messages cannot be rendered.
        """
        return len(self._render(*self._told(messages, tools)))

    def text(self, text: str) -> list[int]:
        """A bare text's tokens."""
        return list(self._tokenizer(text)["input_ids"])

    def to_write(self, messages: Sequence[Message]) -> ChatTokens:
        """Messages as they become memory.

        Raises:
            ApiError: the messages cannot be rendered.
        """
        try:
            return self.source.encode_to_write(messages)
        except ValueError as error:
            raise invalid(str(error), "messages") from None

    def written(self, messages: Sequence[Message], roles: Sequence[str]) -> WriteInput:
        """The same, and which of the tokens write: those of the given roles.

        Raises:
            ApiError: the messages cannot be rendered.
        """
        return WriteInput.of(self.to_write(messages), messages, roles)

    def written_text(self, ids: Sequence[int]) -> WriteInput:
        """The same for bare tokens, which are one segment."""
        row = torch.tensor([list(ids)], dtype=torch.int64)
        return WriteInput(row, torch.zeros_like(row), torch.ones_like(row, dtype=torch.bool))

    def plain(self, ids: Sequence[int]) -> str:
        """A bare text from its tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _told(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[Sequence[Message], Sequence[Mapping[str, Any]]]:
        """Messages and tools, these in the system's message where the chat template has no place for them."""
        if tools and not self.knows_tools:
            return _with_system(messages, explained(tools)), ()
        return messages, tools

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        more = {"tools": [dict(tool) for tool in tools]} if tools else {}
        try:
            text = render_text(self._tokenizer, messages, add_generation_prompt=True, **more)
            check_text(text, "the messages and tools")
        except ValueError as error:
            raise invalid(str(error), "messages") from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def new_messages(messages: Sequence[Message]) -> list[Message]:
    """What a turn adds: the messages since the last assistant message, without system messages."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    return [m for m in messages[last + 1 :] if m["role"] != "system"]


def answer_message(text: str) -> Message:
    """An answer as it is written and kept: without white space at its ends, which chat templates drop too."""
    return {"role": "assistant", "content": text.strip()}


def without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    """The messages without the oldest ``count`` that are not a system's."""
    gone = set([i for i, message in enumerate(messages) if message["role"] != "system"][:count])
    return [message for i, message in enumerate(messages) if i not in gone]


def _with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages, with a text after what the system says."""
    if messages and messages[0]["role"] == "system":
        before = messages[0]["content"]
        return [{**messages[0], "content": f"{before}\n\n{text}" if before else text}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _cuts(messages: Sequence[Message]) -> list[int]:
    """How many of the oldest messages may be left out, so that a user's or the last one is the first that stays."""
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    return [place for place, role in enumerate(spoken) if place and (role == "user" or place == len(spoken) - 1)]
