"""What a table would do in the embedded world, whose sentences are known: no memory is learned, and none is needed.

A reader made of the world's own phrasings finds who is said to have what. The one method keeps that as it is, the other
in a matrix of random keys that is written by the delta rule, of as many numbers as the four-state adapter has.
"""

import re
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from deltamem.chat import Message
from deltamem.demo.lexicon import lexicon
from deltamem.demo.world import UNKNOWN, USER
from deltamem_lab.backbone import Backbone, Generated
from deltamem_lab.interface import Ask, Document, Entry
from deltamem_lab.methods.registry import method
from deltamem_lab.methods.text import NoContext

KEYS, CODES = 64, 24
# A key that nothing was written under reads about the square root of how many were, in 64ths.
_FAINT = 0.55
_SLOT = re.compile(r"\{([^{}]*)\}")
_NAME = r"(?:my \w+ )?\w+"
_OWN_WORDS = frozenset({"i", "me", "my"})

Key = tuple[str, str]


@dataclass(frozen=True)
class Told:
    """Who is said to have what."""

    key: Key
    value: str


class _Table(NoContext):
    """Answers from what a reader finds, without the backbone; the text is gone."""

    needs_history = True

    def say(self, prompts: list[list[Message]], asks: list[Ask]) -> list[Generated]:
        """What the table has for each question; no tokens pass through a model."""
        said = []
        for ask in asks:
            key = asked(ask.question.text)
            value = self.look_up(key) if key is not None else ""
            said.append(Generated(f"{value}." if value else UNKNOWN, ask.question.text, 0, 0))
        return said

    def keep(self, history: Sequence[Entry]) -> int:
        """Reads what the user said; no token passes through a model."""
        for entry in history:
            if not isinstance(entry, Document) and entry["role"] == USER and (found := told(entry["content"])):
                self.write(found)
        return 0

    @abstractmethod
    def write(self, found: Told) -> None:
        """Takes in a fact."""

    @abstractmethod
    def look_up(self, key: Key) -> str:
        """The value that is kept, empty if none is."""


@method("regex", "control: regular expressions and a table", "control", on_demand=True)
class ExpressionTable(_Table):
    """The facts that the world's own phrasings find, each as its last value."""

    def forget(self) -> None:
        """Drops all facts."""
        self._facts: dict[Key, str] = {}

    def write(self, found: Told) -> None:
        """Keeps it in the place of what was told before."""
        self._facts[found.key] = found.value

    def look_up(self, key: Key) -> str:
        """The value, empty if nothing was told."""
        return self._facts.get(key, "")

    @property
    def stored_bytes(self) -> int:
        """The names and values, and a byte for each attribute."""
        return sum(len(who.encode()) + 1 + len(value.encode()) for (who, _), value in self._facts.items())


@method("delta_table", "control: delta-rule table made by hand", "control", on_demand=True)
class DeltaTable(_Table):
    """The same facts in one matrix: a random key for who and what, a random code for each value of the world.

    A fact is written by the delta rule, S + (v − S·k)·kᵀ with |k| = 1, and read as the nearest code to S·k; where that
    is faint, nothing is known.
    """

    def __init__(self, name: str, backbone: Backbone) -> None:
        super().__init__(name, backbone)
        self.forget()

    def forget(self) -> None:
        """Empties the matrix."""
        self._matrix = np.zeros((CODES, KEYS), np.float32)

    def write(self, found: Told) -> None:
        """Replaces what its key reads."""
        key = _random(f"key/{found.key}", KEYS)
        self._matrix += np.outer(_random(f"value/{found.value}", CODES) - self._matrix @ key, key)

    def look_up(self, key: Key) -> str:
        """The value of that attribute whose code is nearest, empty if the reading is faint."""
        read = self._matrix @ _random(f"key/{key}", KEYS)
        if np.linalg.norm(read) < _FAINT:
            return ""
        values = lexicon().attributes[key[1]].values
        return max(values, key=lambda value: float(read @ _random(f"value/{value}", CODES)))

    @property
    def stored_bytes(self) -> int:
        """The matrix."""
        return self._matrix.nbytes


def told(text: str) -> Told | None:
    """What a sentence of the world says, if it is one."""
    first: Told | None = None
    for attribute, pattern in _tells():
        if found := pattern.fullmatch(text):
            one = Told((_who(found), attribute), found["v"])
            if one.value in lexicon().attributes[attribute].values:
                return one
            first = first or one
    return first


def asked(text: str) -> Key | None:
    """Who and what a question of the world is about, if it is one."""
    for attribute, pattern in _asks():
        if found := pattern.fullmatch(text):
            return _who(found), attribute
    return None


@cache
def _tells() -> list[tuple[str, re.Pattern[str]]]:
    openings = "|".join(re.escape(one.replace("{t}", "")) for one in lexicon().corrections)
    return [
        (name, re.compile(f"(?:{openings})?{_pattern(phrasing)}", re.IGNORECASE))
        for name, attribute in lexicon().attributes.items()
        for phrasing in (*attribute.tell, *attribute.change)
    ]


@cache
def _asks() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (name, re.compile(_pattern(phrasing), re.IGNORECASE))
        for name, attribute in lexicon().attributes.items()
        for phrasing in attribute.ask
    ]


def _pattern(phrasing: str) -> str:
    """A phrasing as a regular expression; the first subject is the group ``s``, the value ``v``."""
    named: set[str] = set()
    made, end = [], 0
    for slot in _SLOT.finditer(phrasing):
        made.append(re.escape(phrasing[end : slot.start()]))
        end = slot.end()
        made.append(_slot(slot[1], named))
    return "".join([*made, re.escape(phrasing[end:])])


def _slot(name: str, named: set[str]) -> str:
    if name in ("S", "P", "me"):
        who = f"{_NAME}'s|my" if name == "P" else _NAME
        first = "s" not in named
        named.add("s")
        return f"(?P<s>{who})" if first else f"(?:{who})"
    return {
        "v": "(?P<v>.+)",
        "P2": "(?:my|their)",
        "a": "an?",
        "am": "(?:am|is)",
        "have": "(?:have|has)",
        "do": "(?:do|does)",
    }.get(name) or f"(?:{name})"


def _who(found: re.Match[str]) -> str:
    """The name of the subject, or the user; "my sister Nora's" is Nora."""
    who = found["s"].removesuffix("'s").split()[-1]
    return USER if who.lower() in _OWN_WORDS else who


@cache
def _random(name: str, size: int) -> NDArray[np.float32]:
    """A direction that follows from a name."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).normal(size=size)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)
