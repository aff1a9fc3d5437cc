"""Messages as the tokens of a prompt, and as the tokens that a turn writes."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltamem.chat import Message, encode_chat
from deltamem.serve.errors import ApiError
from deltamem.serve.text import CONTEXT, INCOMPLETE
from deltamem.serve.vocabulary import bytes_of

Written = tuple[Tensor, Tensor, Tensor]


class Prompts:
    """Encodes for one model.

    Args:
        tokenizer: its tokenizer; chat needs a template.
        sentences: whether its adapter writes once a sentence.
        context: positions for prompt and answer.
    """

    def __init__(self, tokenizer: Any, *, sentences: bool, context: int) -> None:
        self._tokenizer = tokenizer
        self._sentences = sentences
        self._context = context
        self.vocabulary = len(tokenizer)

    def chat(self, messages: Sequence[Message], *, shorten: bool) -> tuple[list[int], int]:
        """The prompt's tokens, and how many messages were left out of it.

        Args:
            messages: all of them.
            shorten: leave out the oldest messages, but no system message nor the last, until there is room.

        Raises:
            ApiError: the messages cannot be rendered, or do not fit.
        """
        ids = self._render(messages)
        if len(ids) < self._context:
            return ids, 0
        droppable = [i for i, m in enumerate(messages[:-1]) if m["role"] != "system"] if shorten else []

        def without(count: int) -> list[int]:
            gone = set(droppable[:count])
            return self._render([m for i, m in enumerate(messages) if i not in gone])

        fewest = bisect_left(range(len(droppable)), True, key=lambda count: len(without(count)) < self._context)
        ids = without(fewest)
        if len(ids) < self._context:
            return ids, fewest
        raise ApiError(
            400,
            f"The messages have {len(ids)} tokens, and the model has {self._context} positions for prompt and "
            "answer. Write long texts with POST /v1/sessions/{session}/observe and ask about them.",
            "context_length_exceeded",
            "messages",
        )

    def text(self, text: str) -> list[int]:
        """A bare text's tokens."""
        return list(self._tokenizer(text)["input_ids"])

    def written(self, messages: Sequence[Message], roles: Sequence[str]) -> Written:
        """Tokens, segment ids and write flags, each ``[1, T]``, of messages that become memory.

        Raises:
            ApiError: the messages cannot be rendered.
        """
        try:
            chat = encode_chat(self._tokenizer, messages, segments="sentence" if self._sentences else "message")
        except Exception as error:
            raise _unrenderable(error) from None
        numbers = [i for i, message in enumerate(messages) if message["role"] in roles]
        return chat.input_ids, chat.segment, chat.of(numbers)

    def written_text(self, ids: Sequence[int]) -> Written:
        """The same for bare tokens, which are one segment."""
        row = torch.tensor([list(ids)], dtype=torch.int64)
        return row, torch.zeros_like(row), torch.ones_like(row, dtype=torch.bool)

    def plain(self, ids: Sequence[int]) -> str:
        """A bare text from its tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def piece(self, token: int, after: Sequence[int]) -> tuple[str, bytes]:
        r"""What a token adds to the text of the tokens before it, as text and as bytes.

        A token that is a part of a character has no text of its own; it is shown by its bytes, as in ``bytes:\xf0``.
        """
        if INCOMPLETE in self._tokenizer.decode([token]):
            part = bytes_of(self._tokenizer, token)
            try:
                return part.decode(), part
            except UnicodeDecodeError:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in part), part
        before = list(after[-CONTEXT:])
        known = len(self._tokenizer.decode(before)) if before else 0
        text = str(self._tokenizer.decode([*before, token]))[known:]
        return text, text.encode()

    def _render(self, messages: Sequence[Message]) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise _unrenderable(error) from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def new_messages(messages: Sequence[Message]) -> list[Message]:
    """What a turn adds: the messages since the last assistant message, without system messages."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    return [m for m in messages[last + 1 :] if m["role"] != "system"]


def _unrenderable(error: Exception) -> ApiError:
    # Templates are programs and raise what they like; the message is what they want to say to the caller.
    said = " ".join(str(error).split())[:300]
    return ApiError(400, f"The model's chat template refuses these messages: {said}", "invalid_value", "messages")
