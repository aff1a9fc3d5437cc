"""The bytes that a token of a vocabulary stands for."""

import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def bytes_of(tokenizer: Any, token: int) -> bytes:
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


def _byte_level() -> dict[str, int]:
    """The byte of each character of a byte-level vocabulary: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_level()
