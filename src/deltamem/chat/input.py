"""The one way in for text: messages and documents as a model's tokens, and as what its memory reads."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deltamem.attach import Attachment, attached
from deltamem.chat.document import encode_document
from deltamem.chat.template import Message
from deltamem.chat.tokens import ChatTokens, encode_chat, encode_to_write
from deltamem.observe import CHUNK, observe, observe_stream
from deltamem.state import MemoryState


class WriteInput(NamedTuple):
    """What becomes memory; each field ``[1, T]``.

    Attributes:
        ids: token ids.
        segments: segment ids, -1 for none; they matter to adapters that write segments.
        write: bool, the tokens that write. The others are read along, as messages of roles that are not written.
    """

    ids: Tensor
    segments: Tensor
    write: Tensor

    @classmethod
    def of(cls, chat: ChatTokens, messages: Sequence[Message], roles: Sequence[str] | None = None) -> "WriteInput":
        """Encoded messages, of which those of some roles write; all by default."""
        if roles is None:
            return cls(chat.input_ids, chat.segment, torch.ones_like(chat.message, dtype=torch.bool))
        written = [number for number, message in enumerate(messages) if message["role"] in roles]
        return cls(chat.input_ids, chat.segment, chat.of(written))


class TextInput:
    """Text for one model: as tokens, by its tokenizer and chat template, and as memory, by its active adapter.

    Args:
        model: the model; it needs an adapter only for what is written.
        tokenizer: its fast tokenizer, with a chat template.
        template: further variables of the chat template, such as ``enable_thinking``.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, template: dict[str, Any] | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = template or {}

    @property
    def segments(self) -> str:
        """What one segment is to the active adapter, by its write strategy; a message where none is active."""
        return attached(self.model).config.write if adapter_of(self.model) is not None else "message"

    def encode(self, messages: Sequence[Message], *, prompt: bool = False) -> ChatTokens:
        """Messages as one conversation.

        Args:
            messages: dicts with ``role`` and ``content``.
            prompt: end with the header of an answer.

        Raises:
            ValueError: see :func:`deltamem.encode_chat`.
        """
        shown = _for_template(messages)
        return encode_chat(self.tokenizer, shown, segments=self.segments, add_generation_prompt=prompt, **self.template)

    def encode_to_write(self, messages: Sequence[Message]) -> ChatTokens:
        """Messages as they become memory.

        Raises:
            ValueError: see :func:`deltamem.chat.encode_to_write`.
        """
        return encode_to_write(self.tokenizer, _for_template(messages), segments=self.segments, **self.template)

    def write(
        self,
        messages: Sequence[Message],
        state: MemoryState | None = None,
        *,
        roles: Sequence[str] | None = None,
        chunk_size: int = CHUNK,
    ) -> MemoryState:
        """The memory, one row, after messages have been read into it; their text is then no longer needed.

        Args:
            messages: dicts with ``role`` and ``content``; without any the memory stays as it is.
            state: the memory to start from; empty by default.
            roles: whose messages write; all by default.
            chunk_size: tokens a forward pass.

        Raises:
            ValueError: see :func:`deltamem.chat.encode_to_write`.
        """
        attachment = attached(self.model)
        state = state if state is not None else attachment.new_state(1)
        if not messages:
            return state
        written = WriteInput.of(self.encode_to_write(messages), messages, roles)
        ids, segments, write = (row.to(attachment.base.device) for row in written)
        return observe(self.model, ids, state, segment_ids=segments, write=write, chunk_size=chunk_size)

    def write_document(
        self, pieces: Iterable[str], state: MemoryState | None = None, *, check: Callable[[], None] = lambda: None
    ) -> MemoryState:
        """The memory after a long document, of which no more than a few kilobytes are held at a time.

        Args:
            pieces: the text in pieces of any length; the memory does not depend on where they end.
            state: the memory to start from; empty by default.
            check: called at every block; what it raises ends the reading.

        Raises:
            ValueError: there is no text, or the chat template does not show it as it is.
        """
        device = attached(self.model).base.device

        def parts() -> Iterator[tuple[Tensor, ...]]:
            for block in encode_document(self.tokenizer, pieces, segments=self.segments):
                check()
                yield tuple(row.to(device) for row in WriteInput.of(block, ()))

        return observe_stream(self.model, parts(), state)


def adapter_of(model: nn.Module) -> str | None:
    """The name of the model's active adapter; ``None`` if it carries none, or has none switched on."""
    return attached(model).active if carries_memory(model) else None


def carries_memory(model: nn.Module) -> bool:
    """Whether a model has adapters on it."""
    try:
        attached(model)
    except ValueError:
        return False
    return True


@contextmanager
def using(model: nn.Module, adapter: str | None) -> Iterator[Attachment | None]:
    """Within the block this adapter is the model's active one; ``None`` leaves the bare backbone.

    Raises:
        ValueError: there is no such adapter.
    """
    if not carries_memory(model):
        if adapter is not None:
            raise ValueError(f"The model carries no adapter {adapter!r}; load one with deltamem.load_adapter.")
        yield None
        return
    attachment = attached(model)
    before = attachment.active
    attachment.activate(adapter)
    try:
        yield attachment
    finally:
        attachment.activate(before)


def _for_template(messages: Sequence[Message]) -> list[Message]:
    """Chat templates know no documents: the model sees one as a user's message."""
    return [{**message, "role": "user"} if message["role"] == "document" else message for message in messages]
