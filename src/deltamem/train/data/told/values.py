"""The values that facts have: short lists, open kinds with tens of thousands of members, and which are held out.

Names come from Faker's lists and words from the EFF's long list for passphrases (in xkcdpass). Another version of Faker
may list other names, so the same seed gives the same dialogues with the same version only.
"""

import random
import re
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import yaml

from deltamem.extensions import how_to_install

# Locales of Faker whose names are written in Latin letters.
_LOCALES = (
    "en_US", "en_GB", "en_AU", "en_IN", "de_DE", "fr_FR", "fr_CA", "es_ES", "es_MX", "it_IT", "pt_BR", "nl_NL", "sv_SE",
    "da_DK", "no_NO", "fi_FI", "pl_PL", "cs_CZ", "hr_HR", "hu_HU", "ro_RO", "sl_SI", "tr_TR",
)  # fmt: skip
_NAME = re.compile(r"[A-Z][a-z]{2,11}")
# What Faker's providers call the names of a kind.
_ATTRIBUTES = {
    "first": ("first_names", "first_names_male", "first_names_female"),
    "last": ("last_names", "last_names_male", "last_names_female"),
    "city": ("cities", "city_names"),
}
_RANGES = {"number": (2, 999), "age": (18, 95), "size": (34, 48)}
# Values composed of a surname and one of these words.
_AFTER_NAMES = {
    "street": ("Street", "Lane", "Road", "Avenue", "Square", "Hill"),
    "company": ("Works", "Brothers", "Media", "Bank", "Foods", "Systems", "Press", "Motors"),
    "school": ("School", "College", "Academy"),
}
FRAMES = ("The", *(word for words in _AFTER_NAMES.values() for word in words))
"""The words of composed values that are not drawn from a list of names or words."""
_ONSETS = "b br c ch cl d dr f fl g gl gr h j k l m n p pl qu r s sh sk sl st t tr v w z".split()  # noqa: SIM905
_VOWELS = "a e i o u ai ea oo ou".split()  # noqa: SIM905
_CODAS = "b ck d f g k l ll m n nd ng nt p r rd rk s st t x".split()  # noqa: SIM905
_MISSING = f"The told facts take names and words from faker and xkcdpass: {how_to_install('told')}"

OPEN = ("city", "first", "last", "word", "petname", "coined", "company", "street", "school", "title")
"""Kinds with so many members that some can be held out; the others' are known from training."""


def held_out(value: str) -> bool:
    """Whether a value of an open kind is kept for tests: one in eight, by a checksum, so the same ones everywhere."""
    return zlib.crc32(value.lower().encode()) % 8 == 0


@cache
def listed() -> dict[str, tuple[str, ...]]:
    """The values of each kind that has a short list."""
    text = files("deltamem.train.data.told").joinpath("values.yaml").read_text("utf-8")
    return {kind: tuple(str(value) for value in values) for kind, values in yaml.safe_load(text).items()}


@cache
def members(kind: str) -> tuple[str, ...]:
    """All values of a listed kind, a kind of names or ``word``, always in the same order.

    Raises:
        ImportError: the packages with names and words are not installed.
        KeyError: there is no such kind, or its values are composed (see :func:`sample_value`).
    """
    if kind == "word":
        return _words()
    return _names(_ATTRIBUTES[kind]) if kind in _ATTRIBUTES else listed()[kind]


def _names(attributes: Sequence[str]) -> tuple[str, ...]:
    """The names that Faker's providers list under these attributes, sorted."""
    try:
        from faker import Faker
    except ImportError:
        raise ImportError(_MISSING) from None
    found: set[str] = set()
    for locale in _LOCALES:
        for provider in Faker(locale).get_providers():
            for attribute in attributes:
                found.update(name for name in getattr(provider, attribute, ()) if isinstance(name, str))
    return tuple(sorted(name for name in found if _NAME.fullmatch(name)))


def _words() -> tuple[str, ...]:
    """The words of the EFF's long list, sorted."""
    try:
        text = files("xkcdpass").joinpath("static", "eff-long").read_text("utf-8")
    except ModuleNotFoundError:
        raise ImportError(_MISSING) from None
    return tuple(sorted(word for word in text.split() if word.isalpha()))


def sample_value(rng: random.Random, kind: str, *, unseen: bool = False, strict: bool = False) -> str:
    """A value of a kind.

    Args:
        rng: the source of chance.
        kind: of a relation, or ``coined`` for a made-up word.
        unseen: whether the value is one that is held out; only for kinds in :data:`OPEN`.
        strict: whether the same holds for the parts of a composed value: for the name of a company, street or school
            and the words of a title. Otherwise "Lopez" may be held out, and "Lopez Works" not.

    Raises:
        ValueError: unseen values of a kind that has none.
    """
    if kind not in OPEN:
        if unseen:
            raise ValueError(f"The kind {kind} has no values that are held out; its values are all known.")
        return _draw(rng, kind)
    while True:
        value = _draw(rng, kind)
        if all(held_out(part) == unseen for part in (value, *(parts(value, kind) if strict else ()))):
            return value


def parts(value: str, kind: str) -> list[str]:
    """What was drawn for a value: the name of a company, street or school, the words of a title, or all of it."""
    if kind == "title":
        return value.split()[1:]
    return value.split()[:1] if kind in _AFTER_NAMES else [value]


def _draw(rng: random.Random, kind: str) -> str:
    if kind in _RANGES:
        return str(rng.randint(*_RANGES[kind]))
    if kind in _AFTER_NAMES:
        return f"{rng.choice(members('last'))} {rng.choice(_AFTER_NAMES[kind])}"
    match kind:
        case "coined":
            syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2)))]
            return "".join(syllables) + rng.choice(_CODAS)
        case "petname":
            return rng.choice(members("word")).capitalize() if rng.random() < 0.5 else rng.choice(members("first"))
        case "title":
            return f"The {rng.choice(members('word')).capitalize()} {rng.choice(members('word')).capitalize()}"
        case "date":
            return f"{rng.randint(1, 28)} {rng.choice(members('month'))}"
        case "time":
            return f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}"
        case _:
            return rng.choice(members(kind))
