"""What a store takes: names that are safe in SQL, URLs, file names and logs, and values its columns can hold.

Each check gives back what it was given (a time in UTC), or raises an :class:`InvalidError` that says what fits.
"""

import re
import unicodedata
from datetime import UTC, datetime

from deltamem.store.errors import InvalidError

NAME_PATTERN = "[A-Za-z0-9._:-]{1,128}"
MAX_LABEL = 200
_MAX_NUMBER = 2**31 - 1
_MAX_TOKENS = 2**63 - 1
_NAME = re.compile(NAME_PATTERN)
_KIND = re.compile("[a-z][a-z_]{0,31}")
# Control characters, lone surrogates, and the separators of lines and paragraphs.
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")


def check_name(what: str, name: str) -> str:
    """A tenant's or a session's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidError(
            f"{_shown(name)} is not a valid {what} name: use 1 to 128 of A-Z a-z 0-9 . _ : - (not . or .. alone)."
        )
    return name


def check_kind(kind: str) -> str:
    """The kind of a version, one that a caller may give."""
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or kind in ("create", "fork", "rollback"):
        raise InvalidError(f"{_shown(kind)} is not a kind of version; use a lower-case word such as turn or observe.")
    return kind


def check_label(label: str | None) -> str | None:
    """A label, which is one line of text, or none."""
    if label is None:
        return None
    if not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL:
        raise InvalidError(f"A label has 1 to {MAX_LABEL} characters, or is None.")
    for place, character in enumerate(label):
        if unicodedata.category(character) in _UNSAFE:
            raise InvalidError(f"Character {place} of the label is {character!a}: labels are one line of text.")
    return label


def fold(text: str) -> str:
    """Text as it is searched: compatible characters are one, and case does not count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def check_state(state: bytes) -> bytes:
    """A memory's bytes."""
    if not isinstance(state, bytes) or not state:
        raise InvalidError("A memory is stored as the bytes of state_to_bytes, which are never empty.")
    return state


def check_tokens(tokens: int) -> int:
    """A count of tokens, which 64 bits hold."""
    if not isinstance(tokens, int) or not 0 <= tokens <= _MAX_TOKENS:
        raise InvalidError("tokens counts the tokens that a memory has written, from 0.")
    return tokens


def check_number(what: str, number: int | None) -> int:
    """The number of a version, a position, or how many of something: positive, and 32 bits hold it."""
    if not isinstance(number, int) or not 1 <= number <= _MAX_NUMBER:
        raise InvalidError(f"{what} is a whole number from 1 to {_MAX_NUMBER}, not {_shown(number)}.")
    return number


def check_fingerprint(fingerprint: str) -> str:
    """The fingerprint of an adapter."""
    if not isinstance(fingerprint, str) or not _NAME.fullmatch(fingerprint):
        raise InvalidError("A fingerprint is what adapter_fingerprint gives: 64 hexadecimal digits.")
    return fingerprint


def check_user(user: str | None) -> str | None:
    """A user's name, or none for nobody's."""
    return None if user is None else check_name("user", user)


def check_moment(moment: datetime | None) -> datetime | None:
    """A time with a time zone, or none."""
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidError("A time needs a time zone: datetime.now(UTC) + timedelta(days=30).")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidError("The time is out of range.") from None


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
