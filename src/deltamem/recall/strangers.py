"""What other people said: memories of it tell what an answer is worth that any full memory would give."""

from collections.abc import Sequence
from functools import cache

from deltamem.chat import Message

_SAID = (
    "My name is {}.",
    "I live in {}.",
    "I work as a {}.",
    "My birthday is on {}.",
    "I have a {} as a pet.",
    "My favourite food is {}.",
    "My favourite colour is {}.",
    "My hobby is {}.",
    "My sister {}.",
    "I hope to visit {} next year.",
)
_PEOPLE = (
    ("Hanna", "Oslo", "nurse", "March 3", "rabbit", "soup", "green", "pottery", "Olga plays the harp", "Peru"),
    ("Marcus", "Dublin", "plumber", "June 14", "parrot", "curry", "grey", "chess", "Ines lives in Rome", "Japan"),
    ("Leila", "Athens", "lawyer", "October 30", "dog", "pizza", "purple", "sewing", "Samira is a vet", "Iceland"),
    ("Piotr", "Warsaw", "baker", "May 21", "goldfish", "lasagne", "black", "fishing", "Ewa has two cats", "Kenya"),
    ("Amelia", "Sydney", "pilot", "August 8", "cat", "sushi", "orange", "drawing", "Grace studies law", "Norway"),
    ("Tomas", "Prague", "gardener", "December 1", "hamster", "stew", "white", "cycling", "Jana collects maps", "Chile"),
)


@cache
def strangers() -> tuple[Sequence[Message], ...]:
    """Conversations with people who have nothing to do with anybody."""
    return tuple(
        [
            message
            for said, value in zip(_SAID, person, strict=True)
            for message in (
                {"role": "user", "content": said.format(value)},
                {"role": "assistant", "content": "Noted."},
            )
        ]
        for person in _PEOPLE
    )
