"""Long documents as tokens, a block at a time: what is held never grows with the document."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from deltamem.chat.template import Rendered, render_chat
from deltamem.chat.tokens import ChatTokens, check_text, check_tokenizer, encode_rendered
from deltamem.rules import WRITE_STRATEGIES
from deltamem.state import NO_SEGMENT

BLOCK = 1024
_EXAMPLE = "A document."
# Where to cut, best first, and whether a sentence ends there. Most tokenizers begin a token at a single space.
_CUTS = (
    (re.compile(r"(?<=[.!?…]) (?=\S)|(?<=[。！？])(?=[^\s.!?…。！？])"), True),
    (re.compile(r"(?<=\n)(?=\S)"), True),
    (re.compile(r"(?<=\S) (?=\S)"), False),
    (re.compile(r"(?<=\S)(?=\s)"), False),
)


def encode_document(tokenizer: Any, pieces: Iterable[str], *, segments: str = "message") -> Iterator[ChatTokens]:
    """The tokens of one user's message that arrives in pieces.

    The text is cut into blocks of about a thousand characters where a sentence ends, else at a space, and each block
    is tokenised by itself. Where it is cut depends on the text alone, so the tokens do not depend on the pieces. In
    prose, where a block ends at a single space, they are those of the whole text.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        pieces: the text in pieces of any length.
        segments: what one segment is. A sentence that no block holds whole is one segment all the same.

    Raises:
        ValueError: there is no text, or the chat template does not show it as it is.
    """
    before, after = _frame(tokenizer)
    sentences, open_sentence = 0, False
    for number, (block, ends_sentence, last) in enumerate(_blocks(pieces)):
        head = "" if number else before
        text = f"{head}{block}{after if last else ''}"
        inner = block.strip()
        place = len(head) + block.find(inner)
        content = (place, place + len(inner))
        rendered = Rendered(text, ((0, len(text)),), (content,), rewritten=False)
        chat = encode_rendered(tokenizer, rendered, ["user"], segments)
        if WRITE_STRATEGIES[segments].cut is not None:
            start = sentences - open_sentence
            found = chat.segment != NO_SEGMENT
            chat = replace(chat, segment=chat.segment + start * found)
            sentences = max(sentences, int(chat.segment.max()) + 1)
            open_sentence = not ends_sentence and bool(found.any())
        yield chat


def _frame(tokenizer: Any) -> tuple[str, str]:
    """What the chat template puts before and after a user's message."""
    check_tokenizer(tokenizer)
    rendered = render_chat(tokenizer, [{"role": "user", "content": _EXAMPLE}])
    (begin, end), content = rendered.messages[0], rendered.contents[0]
    if content is None or rendered.text[slice(*content)] != _EXAMPLE:
        raise ValueError(
            "The chat template changes or repeats a message's text, so a document cannot be cut; observe it as "
            "messages."
        )
    return rendered.text[begin : content[0]], rendered.text[content[1] : end]


def _blocks(pieces: Iterable[str]) -> Iterator[tuple[str, bool, bool]]:
    """The text in blocks, whether each ends a sentence, and whether it is the last."""
    held, blank = "", True
    for piece in pieces:
        check_text(piece, "the document")
        # By parts, so that one huge piece is not copied once a block.
        for start in range(0, len(piece), BLOCK):
            held += piece[start : start + BLOCK]
            while len(held) > BLOCK:
                cut, ends_sentence = _cut(held[: BLOCK + 1])
                yield held[:cut], ends_sentence, False
                blank = blank and held[:cut].isspace()
                held = held[cut:]
    if blank and not held.strip():
        raise ValueError("There is no text to observe.")
    yield held, True, True


def _cut(text: str) -> tuple[int, bool]:
    """Where to cut a text of ``BLOCK + 1`` characters, and whether a sentence ends there."""
    for pattern, ends_sentence in _CUTS:
        places = [match.start() for match in pattern.finditer(text) if match.start()]
        if places:
            return places[-1], ends_sentence
    return BLOCK, False
