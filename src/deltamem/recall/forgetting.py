"""Forgetting one fact: which messages say it."""

import re
from collections.abc import Sequence

from deltamem.chat import Message


def says(messages: Sequence[Message], text: str) -> bool:
    """Whether one of some messages has a text in it, as whole words, in any case; what ends a sentence is not counted.

    Raises:
        ValueError: the text has no words.
    """
    wanted = " ".join(text.split()).strip(" .!?")
    if not wanted:
        raise ValueError("An empty text says nothing: give words of what is to be forgotten.")
    pattern = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)", re.IGNORECASE)
    return any(pattern.search(" ".join(message["content"].split())) for message in messages)
