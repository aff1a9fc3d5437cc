"""Token ids as text that arrives: whole characters only, and nothing of a stop string."""

from collections.abc import Sequence
from typing import Any

INCOMPLETE = "�"
# So many tokens before a token are enough to decode it as it stands in the text: a character has up to four.
CONTEXT = 4


class TextStream:
    """Decodes a growing list of tokens piece by piece; the pieces joined are the text of all tokens.

    Args:
        tokenizer: the model's tokenizer.
        stop: texts before which the stream ends.
        after: tokens that the text goes on from. Decoders drop a space at the beginning of a text, but not within it.

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
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that ``stop`` begins with, short of all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
