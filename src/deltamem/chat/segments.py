"""How text becomes segments, by write strategy. A new strategy that cuts text in its own way adds its row here."""

import re
from collections.abc import Callable, Iterator
from typing import Literal

from deltamem.config import DeltaMemConfig

Segments = Literal["message", "sentence"]
_SENTENCE = re.compile(r"[^.!?…。！？\n]*[.!?…。！？\n]+|[^.!?…。！？\n]+")


def sentences(content: str) -> Iterator[tuple[int, int]]:
    """From where to where each sentence of a text goes."""
    return ((match.start(), match.end()) for match in _SENTENCE.finditer(content) if match.group().strip())


# How the content of a message is cut; None takes the message as one, with what the template puts around it.
CUTS: dict[Segments, Callable[[str], Iterator[tuple[int, int]]] | None] = {"message": None, "sentence": sentences}


def segments_of(config: DeltaMemConfig) -> Segments:
    """What one segment is to an adapter; a message for those that write token by token and need none."""
    return config.write if config.write in CUTS else "message"
