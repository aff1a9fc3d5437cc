"""Chat messages as tokens: which token belongs to which message, and to which segment."""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from deltamem.state import NO_SEGMENT

Message = Mapping[str, str]
_Render = Callable[..., str]
_MARK = "\u2060content\u2060"
_SENTENCE = re.compile(r"[^.!?…。！？\n]*[.!?…。！？\n]+|[^.!?…。！？\n]+")


@dataclass(frozen=True)
class ChatTokens:
    """A rendered conversation.

    Attributes:
        input_ids: ``[1, T]``.
        message: ``[1, T]``, the number of the message a token belongs to, or -1 (the generation prompt).
        segment: ``[1, T]``, segment ids for segment writes, or -1 (system messages, the generation prompt,
            and, for sentences, what the template puts around a message).
        rewritten: whether the template shows some message otherwise than it would if nothing followed.
    """

    input_ids: Tensor
    message: Tensor
    segment: Tensor
    rewritten: bool = False

    def of(self, numbers: Sequence[int]) -> Tensor:
        """``[1, T]`` bool, the tokens of the given messages."""
        return torch.isin(self.message, torch.tensor(list(numbers), dtype=torch.int64))


def encode_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    segments: Literal["message", "sentence"] = "message",
    add_generation_prompt: bool = False,
    **template: Any,
) -> ChatTokens:
    """Renders messages with the tokenizer's chat template and finds every token's message and segment.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        messages: dicts with ``role`` and ``content``.
        segments: what one segment is. A message whose text the template changes is one even among sentences.
        add_generation_prompt: end with the header of an assistant message.
        template: further variables of the chat template.

    Raises:
        ValueError: there is no message, no chat template or no fast tokenizer, or the template does not show
            every message's text once, so that no token can be told apart.
    """
    if not messages:
        raise ValueError("There is no message to encode.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("Finding the tokens of a message needs a fast tokenizer (one with a tokenizer.json).")
    if not tokenizer.chat_template:
        raise ValueError("This tokenizer has no chat template; set tokenizer.chat_template.")

    def render(part: Sequence[Message], prompt: bool = False) -> str:
        shown = [dict(message) for message in part]
        return str(tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=prompt, **template))

    text = render(messages, add_generation_prompt)
    growing = _growing_ends(text, render, messages)
    ends = growing or _marked_ends(text, render, messages, add_generation_prompt)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = [start for start, _ in encoded["offset_mapping"]]
    owner = _span_of(starts, list(zip([0, *ends], ends, strict=False)))
    segment = _span_of(starts, _segments(text, messages, [0, *ends], segments))
    ids, message, among = (torch.tensor([row], dtype=torch.int64) for row in (encoded["input_ids"], owner, segment))
    return ChatTokens(ids, message, among, rewritten=not growing)


def _growing_ends(text: str, render: _Render, messages: Sequence[Message]) -> list[int]:
    """Where each message ends in ``text``; none if the conversation's text does not only grow at its end."""
    beginnings = [render(messages[:number]) for number in range(1, len(messages) + 1)]
    grows = all(longer.startswith(shorter) for shorter, longer in pairwise([*beginnings, text]))
    return [len(beginning) for beginning in beginnings] if grows else []


def _marked_ends(text: str, render: _Render, messages: Sequence[Message], prompt: bool) -> list[int]:
    """The same for a template that shows a message otherwise once others follow, as Qwen3's does with reasoning.

    A mark in the place of a message's content tells where the content lies in ``text``, and what the template puts
    after it.
    """
    ends = []
    for number, message in enumerate(messages):
        marked = [*messages[:number], {**message, "content": _MARK}, *messages[number + 1 :]]
        before, found, after = render(marked, prompt).partition(_MARK)
        if not found or _MARK in after or not text.startswith(before) or not text.endswith(after):
            raise ValueError(
                f"The chat template does not show the text of message {number + 1} once and by itself, so its tokens "
                "cannot be told apart; encode the messages one by one, or use another template."
            )
        closing = render(marked[: number + 1]).rpartition(_MARK)[2]
        end = len(text) - len(after)
        ends.append(end + len(closing) * text.startswith(closing, end))
    return ends


def _span_of(starts: list[int], spans: list[tuple[int, int]]) -> list[int]:
    """For each character position the number of the span that holds it, or -1; the spans ascend."""
    begins = [begin for begin, _ in spans]
    numbers = [bisect_right(begins, start) - 1 for start in starts]
    return [n if n >= 0 and start < spans[n][1] else NO_SEGMENT for n, start in zip(numbers, starts, strict=True)]


def _segments(text: str, messages: Sequence[Message], edges: list[int], kind: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for message, start, end in zip(messages, edges, edges[1:], strict=False):
        if message["role"] == "system":
            continue
        content = message["content"].strip()
        at = text.find(content, start, end) if kind == "sentence" else -1
        if at < 0:
            spans.append((start, end))
        else:
            spans += [(at + m.start(), at + m.end()) for m in _SENTENCE.finditer(content) if m.group().strip()]
    return spans
