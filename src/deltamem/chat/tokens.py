"""Chat messages as tokens: which token belongs to which message, and to which segment."""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from deltamem.chat.template import ANSWER, ASK, Message, Rendered, Span, TemplateRefusedError, render_chat
from deltamem.rules import WRITE_STRATEGIES
from deltamem.state import NO_SEGMENT

_HALF = re.compile("[\ud800-\udfff]")
# What stands before and after a message that is rendered by itself, best first.
_PLACES: dict[str, tuple[tuple[Sequence[Message], Sequence[Message]], ...]] = {
    "assistant": (([ASK], [ASK]), ([ASK], []), ([], [])),
    "other": (([], []), ([ASK], []), ([ASK, ANSWER], [])),
}
_Encode = Callable[[Sequence[Message]], "ChatTokens"]


@dataclass(frozen=True)
class ChatTokens:
    """A rendered conversation.

    Attributes:
        input_ids: ``[1, T]``.
        message: ``[1, T]``, the number of the message a token belongs to, or -1 (what the template puts before the
            first message, such as a system prompt of its own, and the generation prompt).
        segment: ``[1, T]``, segment ids for segment writes, or -1 (system messages, what belongs to no message, and,
            for sentences, what the template puts around a message).
        rewritten: whether the template shows some message differently because others follow.
        apart: whether the messages were rendered one by one.
        shown: for each token what it adds to the content of its message; empty for what the template puts around it.
    """

    input_ids: Tensor
    message: Tensor
    segment: Tensor
    rewritten: bool = False
    apart: bool = False
    shown: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The tokens of several, one after the other, with the numbers that they have."""
        ids, message, segment = (
            torch.cat([getattr(part, name) for part in parts], 1) for name in ("input_ids", "message", "segment")
        )
        return cls(ids, message, segment, shown=tuple(piece for part in parts for piece in part.shown))

    def of(self, numbers: Sequence[int]) -> Tensor:
        """``[1, T]`` bool, the tokens of the given messages."""
        return torch.isin(self.message, torch.tensor(list(numbers), dtype=torch.int64))

    def content(self, number: int) -> list[tuple[int, str]]:
        """The tokens that show a message's content: each one's place in the row, and what it adds to the content."""
        places = (self.message[0] == number).nonzero()[:, 0].tolist()
        return [(place, self.shown[place]) for place in places if self.shown[place]]


def encode_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    segments: str = "message",
    add_generation_prompt: bool = False,
    **template: Any,
) -> ChatTokens:
    """Renders messages with the tokenizer's chat template and finds every token's message and segment.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        messages: dicts with ``role`` and ``content``.
        segments: what one segment is: ``"message"``, ``"sentence"`` or what another write strategy cuts. If the
            template changes a message's text, the message is one segment, even with sentences.
        add_generation_prompt: end with the header of an assistant message.
        template: further variables of the chat template.

    Raises:
        TemplateRefusedError: the template raises an error for these messages. It is a ValueError.
        ValueError: there is no message, no chat template or no fast tokenizer, or the template does not show
            every message's text exactly once, so its tokens cannot be found.
    """
    _check(tokenizer, messages)
    rendered = render_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, **template)
    return encode_rendered(tokenizer, rendered, [message["role"] for message in messages], segments)


def encode_to_write(
    tokenizer: Any, messages: Sequence[Message], *, segments: str = "message", **template: Any
) -> ChatTokens:
    """Messages as the tokens that become memory: each as it stands in the middle of a conversation.

    So what the template puts before the first message is not among them. A template that refuses them together,
    because roles do not alternate, or that changes what comes before, renders them one by one. The arguments are
    those of :func:`encode_chat`.

    Raises:
        TemplateRefusedError: the template refuses a message even by itself. It is a ValueError.
        ValueError: as :func:`encode_chat`.
    """
    _check(tokenizer, messages)

    def encode(part: Sequence[Message]) -> ChatTokens:
        return encode_chat(tokenizer, part, segments=segments, **template)

    # Some templates show the last answer otherwise than those before it: with room for reasoning.
    for following in ([ASK], []) if messages[-1]["role"] == "assistant" else ([],):
        try:
            chat = encode([*messages, *following])
            return _sliced(chat, _before(chat, 0), _before(chat, len(messages)))
        except TemplateRefusedError:
            continue
        except ValueError:
            break
    return _joined([_by_itself(encode, message) for message in messages])


def encode_rendered(tokenizer: Any, rendered: Rendered, roles: Sequence[str], segments: str) -> ChatTokens:
    """The tokens of a text in which the messages, with these roles, have been found; a system's is in no segment."""
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: list[Span] = encoded["offset_mapping"]
    starts = [start for start, _ in offsets]
    owner = _owners(starts, rendered)
    told = [number for number, role in enumerate(roles) if role != "system"]
    cut = WRITE_STRATEGIES[segments].cut
    if cut is None:
        among = {number: place for place, number in enumerate(told)}
        segment = [among.get(number, NO_SEGMENT) for number in owner]
    else:
        spans: list[Span] = []
        for number in told:
            content = rendered.contents[number]
            if content is None:
                spans.append(rendered.messages[number])
            else:
                begin, end = content
                spans += [(begin + start, begin + stop) for start, stop in cut(rendered.text[begin:end])]
        segment = _span_of(starts, sorted(spans))
    ids, message, pieces = (torch.tensor([row], dtype=torch.int64) for row in (encoded["input_ids"], owner, segment))
    return ChatTokens(ids, message, pieces, rendered.rewritten, shown=_shown(offsets, owner, rendered))


def _check(tokenizer: Any, messages: Sequence[Message]) -> None:
    if not messages:
        raise ValueError("There is no message to encode.")
    check_tokenizer(tokenizer)
    check_messages(messages)


def check_messages(messages: Sequence[Message]) -> None:
    """Refuses messages without a role or a text.

    Raises:
        ValueError: the message says which one, and what is wrong with it.
    """
    for number, message in enumerate(messages, 1):
        for name in ("role", "content"):
            value = message.get(name)
            if not isinstance(value, str):
                raise ValueError(f"The {name} of message {number} must be a text, not {type(value).__name__}.")
        check_text(message["content"], f"message {number}")


def only_calls(message: Mapping[str, Any]) -> bool:
    """Whether a message is an assistant's that calls tools and says nothing: it has no content then."""
    calls = message.get("tool_calls") or message.get("function_call")
    return message.get("role") == "assistant" and message.get("content") is None and bool(calls)


def check_text(text: str, what: str) -> None:
    """Refuses text that no tokenizer takes; the error calls it ``what``.

    Raises:
        ValueError: it holds half of a surrogate pair, as bytes that are not UTF-8 become.
    """
    half = _HALF.search(text) if isinstance(text, str) else None
    if half is not None:
        raise ValueError(
            f"The text of {what} holds half of a surrogate pair at character {half.start()}, which is not a character. "
            "Was it read from bytes that are not UTF-8? Read them with errors='replace'."
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Refuses a tokenizer that cannot tell the tokens of a message apart.

    Raises:
        ValueError: it is not fast, or has no chat template.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("Finding the tokens of a message needs a fast tokenizer (one with a tokenizer.json).")
    if not tokenizer.chat_template:
        raise ValueError(
            "This tokenizer has no chat template; set tokenizer.chat_template, or put a chat_template.jinja into the "
            "model's folder."
        )


def _owners(starts: list[int], rendered: Rendered) -> list[int]:
    """The message of the token at each character. A template may show a system message's content within another's."""
    owner = _span_of(starts, list(rendered.messages))
    found = sorted((span, number) for number, span in enumerate(rendered.contents) if span is not None)
    within = _span_of(starts, [span for span, _ in found])
    return [found[place][1] if place >= 0 else own for place, own in zip(within, owner, strict=True)]


def _span_of(starts: list[int], spans: list[Span]) -> list[int]:
    """For each character position the number of the span that holds it, or -1; the spans ascend."""
    begins = [begin for begin, _ in spans]
    numbers = [bisect_right(begins, start) - 1 for start in starts]
    return [n if n >= 0 and start < spans[n][1] else -1 for n, start in zip(numbers, starts, strict=True)]


def _shown(offsets: list[Span], owner: list[int], rendered: Rendered) -> tuple[str, ...]:
    """What each token adds to the content of its message; all that it shows where the content is not known."""
    shown, done = [], 0
    for (start, end), number in zip(offsets, owner, strict=True):
        begin, stop = (0, 0) if number < 0 else rendered.contents[number] or rendered.messages[number]
        # Several tokens may be the bytes of one character: the first of them shows it.
        shown.append(rendered.text[max(start, done, begin) : min(end, stop)])
        done = max(done, end)
    return tuple(shown)


def _before(chat: ChatTokens, number: int) -> int:
    """The place of the first token that belongs to message ``number`` or a later one."""
    later = (chat.message[0] >= number).nonzero()
    return int(later[0]) if len(later) else chat.message.shape[1]


def _sliced(chat: ChatTokens, begin: int, end: int) -> ChatTokens:
    part = slice(begin, end)
    ids, message, segment = (row[:, part] for row in (chat.input_ids, chat.message, chat.segment))
    return replace(chat, input_ids=ids, message=message, segment=segment, shown=chat.shown[part])


def _by_itself(encode: _Encode, message: Message) -> ChatTokens:
    """One message as it stands in the middle of a conversation, without what the template puts before the first."""
    refusal: TemplateRefusedError | None = None
    for before, after in _PLACES["assistant" if message["role"] == "assistant" else "other"]:
        try:
            chat = encode([*before, message, *after])
        except TemplateRefusedError as error:
            refusal = refusal or error
        else:
            return _sliced(chat, _before(chat, len(before)), _before(chat, len(before) + 1))
    assert refusal is not None
    raise refusal


def _joined(parts: Sequence[ChatTokens]) -> ChatTokens:
    """Messages that were rendered one by one, as one text: messages and segments go on counting."""
    rows: list[ChatTokens] = []
    count = 0
    for number, part in enumerate(parts):
        told = part.segment != NO_SEGMENT
        first = int(part.segment[told].min()) if bool(told.any()) else 0
        segment = torch.where(told, part.segment - first + count, NO_SEGMENT)
        count = max(count, int(segment.max()) + 1)
        rows.append(replace(part, message=torch.full_like(part.message, number), segment=segment))
    return replace(ChatTokens.joined(rows), apart=True)
