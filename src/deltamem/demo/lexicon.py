"""Words and phrasings of the toy world, read once from ``lexicon.json``.

A phrasing is a template over a subject and a value: ``{v}`` the value, ``{a}`` its article, ``{S}`` the subject
("I" or "my sister Nora"), ``{P}`` its possessive, ``{P2}`` the possessive within the same sentence, ``{me}`` the
object form, and ``{first|third}`` a verb that agrees with the subject.
"""

import json
import re
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Split = Literal["train", "test"]

_CHOICE = re.compile(r"\{([^{}|]+)\|([^{}|]+)\}")
_SHORT_VERBS = {"am": "is", "have": "has", "do": "does"}


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: its values and its phrasings."""

    name: str
    values: tuple[str, ...]
    tell: tuple[str, ...]
    change: tuple[str, ...]
    ask: tuple[str, ...]

    def tells(self, value: str, split: Split) -> list[str]:
        """Phrasings of ``value`` in a split: one in five, chosen by a hash of the value, belongs to the test split."""
        return _in_split(self.tell, self.name, value, split)


@dataclass(frozen=True)
class Lexicon:
    """Everything the world can say."""

    attributes: dict[str, Attribute]
    corrections: tuple[str, ...]
    acks: tuple[str, ...]
    correction_acks: tuple[str, ...]
    relations: tuple[str, ...]
    names: dict[Split, tuple[str, ...]]
    small_talk: tuple[tuple[str, str], ...]
    slots: dict[str, tuple[str, ...]]

    def correction_prefixes(self, attribute: str, value: str, split: Split) -> list[str]:
        """Openings of a correction to ``value`` in a split, held out by the rule of :meth:`Attribute.tells`."""
        return _in_split(self.corrections, attribute, value, split)


def _in_split(phrasings: tuple[str, ...], attribute: str, value: str, split: Split) -> list[str]:
    held_out = held_out_index(attribute, value, len(phrasings))
    if split == "test":
        return [phrasings[held_out]]
    return [phrasing for index, phrasing in enumerate(phrasings) if index != held_out]


def held_out_index(attribute: str, value: str, count: int) -> int:
    """Which of ``count`` phrasings of a value is kept for the test split; the same on every machine."""
    return zlib.crc32(f"{attribute}={value}".encode()) % count


def render(template: str, *, subject: str = "", value: str = "") -> str:
    """Fill a template for a subject ("" is the user) and a value; the sentence is not capitalised."""
    third = bool(subject)
    text = _CHOICE.sub(lambda match: match[2] if third else match[1], template)
    for first_form, third_form in _SHORT_VERBS.items():
        text = text.replace("{" + first_form + "}", third_form if third else first_form)
    return (
        text.replace("{S}", subject or "I")
        .replace("{P}", subject + "'s" if third else "my")
        .replace("{P2}", "their" if third else "my")
        .replace("{me}", subject or "me")
        .replace("{a}", _article(value))
        .replace("{v}", value)
    )


def sentence(text: str) -> str:
    """``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


def _article(value: str) -> str:
    return "an" if value[:1] in "aeio" or value.startswith("um") else "a"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


@cache
def lexicon() -> Lexicon:
    """The lexicon of the package."""
    data = json.loads(files("deltamem.demo").joinpath("lexicon.json").read_text("utf-8"))
    attributes = {
        name: Attribute(
            name, _words(entry["values"]), tuple(entry["tell"]), tuple(entry["change"]), tuple(entry["ask"])
        )
        for name, entry in data["attributes"].items()
    }
    return Lexicon(
        attributes=attributes,
        corrections=tuple(data["corrections"]),
        acks=tuple(data["acks"]),
        correction_acks=tuple(data["correction_acks"]),
        relations=tuple(data["relations"]),
        names={"train": _words(data["names"]["train"]), "test": _words(data["names"]["test"])},
        small_talk=tuple((said, reply) for said, reply in data["small_talk"]),
        slots={slot: _words(words) for slot, words in data["slots"].items()},
    )
