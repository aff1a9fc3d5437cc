"""What a chat template makes of messages, and which part of it belongs to which message: read off the render itself."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Message = Mapping[str, str]
Span = tuple[int, int]
_Render = Callable[..., str]
# An exchange that comes before a message to show it in the middle of a conversation.
ASK: Message = {"role": "user", "content": "?"}
ANSWER: Message = {"role": "assistant", "content": "."}
# Characters of no script: no template and hardly a text has them.
_PRIVATE = range(0xF0000, 0xFFFFE)


class TemplateRefusedError(ValueError):
    """A chat template does not take these messages, as one that wants roles to alternate."""


@dataclass(frozen=True)
class Rendered:
    """Messages as a chat template shows them.

    Attributes:
        text: all of it.
        messages: from where to where each message goes, what the template puts around its content included. What
            comes before the first is the template's own opening: a token that begins every text, or a system prompt
            of its own. What comes after the last is the header of the answer. Both belong to no message.
        contents: from where to where the content of each goes, without white space at its ends; ``None`` where the
            template shows another text.
        rewritten: whether the template shows some message differently because others follow.
    """

    text: str
    messages: tuple[Span, ...]
    contents: tuple[Span | None, ...]
    rewritten: bool


def render_chat(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False, **template: Any
) -> Rendered:
    """Renders messages and finds each of them in the text.

    The content of a message is never searched for, because the template may have the same words elsewhere. The
    template is given the messages again with marks around or instead of their contents, and tells where they go.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: dicts with ``role`` and ``content``.
        add_generation_prompt: end with the header of an assistant message.
        template: further variables of the chat template.

    Raises:
        TemplateRefusedError: the template raises an error for these messages.
        ValueError: it does not show every message's text once.
    """

    def render(part: Sequence[Message], prompt: bool = False) -> str:
        return render_text(tokenizer, part, add_generation_prompt=prompt, **template)

    text = render(messages, add_generation_prompt)
    contents = _contents(text, render, messages, add_generation_prompt)
    growing = _growing_ends(text, render, messages)
    ends = growing or _marked_ends(text, render, messages, add_generation_prompt)
    begin = _opening(text, render, messages[0], contents[0])
    return Rendered(text, tuple(pairwise([min(begin, ends[0]), *ends])), tuple(contents), rewritten=not growing)


def render_text(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False, **template: Any
) -> str:
    """What a chat template makes of messages; :func:`render_chat` takes the same.

    Raises:
        TemplateRefusedError: the template raises an error for these messages.
    """
    shown = [dict(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            shown, tokenize=False, add_generation_prompt=add_generation_prompt, **template
        )
    except Exception as error:  # a template is a program and raises what it likes
        said = " ".join(str(error).split())[:300]
        raise TemplateRefusedError(f"The model's chat template refuses these messages: {said}") from error
    return str(text)


def _contents(text: str, render: _Render, messages: Sequence[Message], prompt: bool) -> list[Span | None]:
    """Where the content of each message lies in ``text``."""
    together = _marked_contents(text, render, messages, range(len(messages)), prompt)
    if together is not None:
        return together
    # The template changes what some message shows, or looks at what it begins with: the others one by one.
    alone = (_marked_contents(text, render, messages, [number], prompt) for number in range(len(messages)))
    return [None if found is None else found[number] for number, found in enumerate(alone)]


def _marked_contents(
    text: str, render: _Render, messages: Sequence[Message], numbers: Sequence[int], prompt: bool
) -> list[Span | None] | None:
    """The contents of some messages, by marks around them; ``None`` if the marks change more than they add."""
    taken = set(text).union(*(message["content"] for message in messages))
    free = (chr(code) for code in _PRIVATE if chr(code) not in taken)
    marked = list(messages)
    marks: list[tuple[str, str]] = []
    for number in numbers:
        begin, end = next(free), next(free)
        marks.append((begin, end))
        content = messages[number]["content"]
        inner = content.strip()
        before = content[: content.find(inner)]
        marked[number] = {**messages[number], "content": f"{before}{begin}{inner}{end}{content[len(before + inner) :]}"}
    try:
        shown = render(marked, prompt)
    except TemplateRefusedError:
        return None
    pieces, places = _without(shown, {mark for pair in marks for mark in pair})
    if pieces != text:
        return None
    spans: list[Span | None] = [None] * len(messages)
    for number, (begin, end) in zip(numbers, marks, strict=True):
        first, last = places[begin], places[end]
        if len(first) != 1 or len(last) != 1 or first > last:
            return None
        spans[number] = (first[0], last[0])
    return spans


def _without(text: str, marks: set[str]) -> tuple[str, dict[str, list[int]]]:
    """The text without marks, and where in it each mark was."""
    places: dict[str, list[int]] = {mark: [] for mark in marks}
    kept: list[str] = []
    length = 0
    for piece in re.split(f"([{''.join(marks)}])", text):
        if piece in marks:
            places[piece].append(length)
        else:
            kept.append(piece)
            length += len(piece)
    return "".join(kept), places


def _growing_ends(text: str, render: _Render, messages: Sequence[Message]) -> list[int]:
    """Where each message ends in ``text``; none if the conversation's text does not only grow at its end."""
    try:
        beginnings = [render(messages[:number]) for number in range(1, len(messages) + 1)]
    except TemplateRefusedError:
        return []
    grows = all(longer.startswith(shorter) for shorter, longer in pairwise([*beginnings, text]))
    return [len(beginning) for beginning in beginnings] if grows else []


def _marked_ends(text: str, render: _Render, messages: Sequence[Message], prompt: bool) -> list[int]:
    """The same for a template that shows a message otherwise once others follow, as Qwen3's does with reasoning.

    A mark in the place of a message's content tells where the content lies in ``text``, and what the template puts
    after it.
    """
    ends = []
    mark = _free_mark(text)
    for number, message in enumerate(messages):
        marked = [*messages[:number], {**message, "content": mark}, *messages[number + 1 :]]
        before, found, after = render(marked, prompt).partition(mark)
        if not found or mark in after or not text.startswith(before) or not text.endswith(after):
            raise ValueError(
                f"The chat template does not show the text of message {number + 1} exactly once, so its tokens cannot "
                "be found; encode the messages one by one, or use another template."
            )
        try:
            closing = render(marked[: number + 1]).rpartition(mark)[2]
        except TemplateRefusedError:
            closing = ""
        end = len(text) - len(after)
        ends.append(end + len(closing) * text.startswith(closing, end))
    return ends


def _opening(text: str, render: _Render, message: Message, content: Span | None) -> int:
    """How much of ``text`` comes before the first message.

    A message begins with the header that it has in the middle of a conversation; with its content if the template
    shows none there. A system message has none: it takes the place of a template's own.
    """
    mark = _free_mark(text)
    if message["role"] == "system":
        opening = _before_header(render, ASK, mark, "")
        return len(opening) if text.startswith(opening) else 0
    known = text[: content[0]] if content is not None else ""
    return len(_before_header(render, message, mark, known))


def _before_header(render: _Render, message: Message, mark: str, known: str) -> str:
    """What comes before the header of a conversation's first message; ``known`` is what comes before its content."""
    if not known:
        try:
            known = render([{**message, "content": mark}]).partition(mark)[0]
        except TemplateRefusedError:
            return ""
    header = _header(render, message, mark)
    if not known.endswith(header):  # the content begins with white space, and the template shows it
        content = message["content"]
        known = known.removesuffix(content[: len(content) - len(content.lstrip())])
    return known.removesuffix(header)


def _header(render: _Render, message: Message, mark: str) -> str:
    """What the template puts before a message's content in the middle of a conversation; empty if it shows none."""
    earlier = [ASK] if message["role"] == "assistant" else [ASK, ANSWER]
    earlier[-1] = {**earlier[-1], "content": mark}
    try:
        alone, both = render(earlier), render([*earlier, {**message, "content": mark}])
    except TemplateRefusedError:
        return ""
    closing, parts = alone.rpartition(mark)[2], both.split(mark)
    if len(parts) != 3 or not parts[1].startswith(closing):
        return ""
    return parts[1][len(closing) :]


def _free_mark(text: str) -> str:
    return next(chr(code) for code in _PRIVATE if chr(code) not in text)
