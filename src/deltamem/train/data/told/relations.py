"""Relations in words: how a fact is told, asked and answered, of the user and of others."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Speaker = Literal["user", "assistant"]

_SELF = {
    "user": {"I": "I", "my": "my", "me": "me", "am": "am", "was": "was", "have": "have", "do": "do"},
    "assistant": {"I": "you", "my": "your", "me": "you", "am": "are", "was": "were", "have": "have", "do": "do"},
}
_OTHER = {"am": "is", "was": "was", "have": "has", "do": "does"}
_VERB_END = re.compile(r"\((e?s)\)")
_PARTS = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Relation:
    """What can be told of somebody.

    Attributes:
        name: of the relation.
        values: the kind of its values.
        tell: how it is told; the last is held out.
        ask: how it is asked; the last is held out.
        answer: how it is answered.
        also_ask: more askings for training.
        further_tell: tellings for training only, from ``further.yaml``.
        further_ask: askings for training only, from there too.
        held: whether the whole relation is held out.
    """

    name: str
    values: str
    tell: tuple[str, ...]
    ask: tuple[str, ...]
    answer: str
    also_ask: tuple[str, ...] = ()
    further_tell: tuple[str, ...] = ()
    further_ask: tuple[str, ...] = ()
    held: bool = False


@cache
def relations(held: bool = False) -> tuple[Relation, ...]:
    """The relations that are trained, or those that are held out."""
    rows, further = _read("relations.yaml"), _read("further.yaml")
    found = []
    for name, row in rows.items():
        row |= {f"further_{what}": wordings for what, wordings in further.get(name, {}).items()}
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        found.append(Relation(name, **fields))
    return tuple(relation for relation in found if relation.held == held)


def _read(name: str) -> dict[str, Any]:
    rows: dict[str, Any] = yaml.safe_load(files("deltamem.train.data.told").joinpath(name).read_text("utf-8"))
    return rows


def put(template: str, *, value: str = "", subject: str = "", speaker: Speaker = "user") -> str:
    """A template as a sentence.

    Args:
        template: of a :class:`Relation`.
        value: the fact's.
        subject: whom it is about; the user if empty.
        speaker: who says it: to the assistant the user is "you".
    """
    words = dict(_SELF[speaker]) if not subject else {**_OTHER, "I": subject, "my": f"{subject}'s", "me": subject}
    words |= {"v": value, "a": "an" if value[:1].lower() in "aeio" else "a"}
    text = _VERB_END.sub(lambda match: match[1] if subject else "", template)
    if subject and "{I}" in text:
        # "Ana named their daughter", not "Ana named Ana's daughter".
        first, found, rest = text.partition("{I}")
        text = first + found + rest.replace("{my}", "their")
    text = _PARTS.sub(lambda match: words[match[1]], text)
    return text[:1].upper() + text[1:]
