"""Tokens as text: as it arrives, whole characters only and nothing of a stop string; and token by token."""

import re
from collections.abc import Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

INCOMPLETE = "�"
# So many tokens before a token are enough to decode it as it stands in the text: a character has up to four.
CONTEXT = 4
# The byte of each character of a byte-level vocabulary.
_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TextStream:
    """Decodes a growing list of tokens piece by piece; the pieces joined are the text of all tokens.

    Args:
        tokenizer: the model's tokenizer.
        stop: texts before which the stream ends.
        after: tokens that the text continues from. Decoders drop a space at the beginning of a text, but not within it.

    Attributes:
        stopped: whether a stop text has come.
        length: characters that the tokens have come to, those of a stop text and those held back included.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        self.stopped = False
        self.length = 0
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids = list(after[-CONTEXT:])
        # Tokens from `_start` on give a decoder its context; those before `_done` have been given out.
        self._start, self._done = 0, len(self._ids)
        self._held = ""

    def push(self, token: int) -> str:
        """Takes one token in and gives the text that is certain by now."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start :])
        if text.endswith(INCOMPLETE):
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """What was held back, once no token follows."""
        if self.stopped:
            return ""
        piece = self._advance(self._decode(self._ids[self._start :])) if self._done < len(self._ids) else ""
        if self.stopped:
            return piece
        rest, self._held = self._held, ""
        return piece + rest

    def _advance(self, text: str) -> str:
        new = text[len(self._decode(self._ids[self._start : self._done])) :]
        self._start, self._done = self._done, len(self._ids)
        self.length += len(new)
        return self._release(self._held + new)

    def _release(self, text: str) -> str:
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""


def overlap(text: str, mark: str) -> int:
    """The length of the longest end of ``text`` that ``mark`` begins with, short of all of it."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


def piece(tokenizer: Any, token: int, after: Sequence[int]) -> tuple[str, bytes]:
    r"""What a token adds to the text of the tokens before it, as text and as bytes.

    A token that is a part of a character has no text of its own; it is shown by its bytes, as in ``bytes:\xf0``.
    """
    if INCOMPLETE in tokenizer.decode([token]):
        part = _bytes_of(tokenizer, token)
        try:
            return part.decode(), part
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in part), part
    before = list(after[-CONTEXT:])
    known = len(tokenizer.decode(before)) if before else 0
    text = str(tokenizer.decode([*before, token]))[known:]
    return text, text.encode()


def _bytes_of(tokenizer: Any, token: int) -> bytes:
    """The bytes of a token that is perhaps no whole character.

    Byte-level vocabularies write each byte as a character (GPT-2, Llama 3, Qwen), others have a token ``<0xF0>`` for
    each byte (Llama 2, Mistral).
    """
    piece = str(tokenizer.convert_ids_to_tokens(token))
    single = _BYTE.fullmatch(piece)
    if single:
        return bytes([int(single[1], 16)])
    if all(character in _BYTES for character in piece):
        return bytes(_BYTES[character] for character in piece)
    return piece.encode()
