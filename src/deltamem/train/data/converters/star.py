"""STAR (Mosig et al., 2020): service dialogues; what the customer said, with values drawn anew.

The dialogues know few names: every value that is asked for is replaced, everywhere in the dialogue, by one of tens of
thousands (:mod:`deltamem.train.data.told.values`, none of those that are held out).
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from deltamem.chat import Message
from deltamem.files import from_json
from deltamem.train.data.converters.example import Example, Row, Skipped, Style, chat_example, need
from deltamem.train.data.told.values import sample_value

_ROLES = {"User": "user", "user": "user", "Wizard": "assistant", "wizard": "assistant"}
_TRIES = 20
Draw = Callable[[random.Random, str], str | None]


def _draw(kind: str) -> Draw:
    return lambda rng, _: sample_value(rng, kind)


def _person(rng: random.Random, old: str) -> str:
    return " ".join(sample_value(rng, "first" if place == 0 else "last") for place, _ in enumerate(old.split()))


def _doctor(rng: random.Random, old: str) -> str | None:
    return f"Dr. {sample_value(rng, 'last')}" if old.startswith("Dr. ") else None


def _house(rng: random.Random, old: str) -> str | None:
    kind = old.rpartition(" ")[2]
    return f"{sample_value(rng, 'last')} {kind}" if kind in ("Hotel", "Inn", "Venue", "Apartments") else None


def _corner(rng: random.Random, old: str) -> str | None:
    return f"{sample_value(rng, 'last')} and {sample_value(rng, 'last')}" if " and " in old else None


def _day_of_month(rng: random.Random, old: str) -> str | None:
    number = rng.randint(1, 28)
    ending = "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}" if re.fullmatch(r"\d+(st|nd|rd|th)", old) else None


def _birth(rng: random.Random, old: str) -> str | None:
    parts = (rng.randint(1, 28), rng.randint(1, 12), rng.randint(1925, 2004))
    return "{:02}/{:02}/{}".format(*parts) if re.fullmatch(r"\d+/\d+/\d{4}", old) else None


class _Slot(NamedTuple):
    """What the wizard's query names it, and how it is asked of the customer."""

    name: str
    ask: str
    answer: str
    draw: Draw
    word: str = ""  # has to be in the dialogue, where the same slot means one thing or another


_SLOTS = (
    *(
        _Slot(name, "What is my name?", "Your name is {}.", _person)
        for name in ("CustomerName", "PatientName", "RenterName", "UserName", "GuestName", "FullName")
    ),
    _Slot("HostName", "Who is the host of the party?", "The host of the party is {}.", _person, "party"),
    _Slot("Name", "Which doctor did I name?", "You named {}.", _doctor),
    _Slot("Name", "Which place did I name?", "You named the {}.", _house),
    _Slot("Day", "Which day did I ask for?", "You asked for {}.", _draw("weekday")),
    _Slot("City", "Which city did I ask about?", "You asked about {}.", _draw("city")),
    _Slot("DepartureCity", "Which city do I leave from?", "You leave from {}.", _draw("city")),
    _Slot("ArrivalCity", "Which city do I want to go to?", "You want to go to {}.", _draw("city")),
    _Slot("DepartureLocation", "Where do I start from?", "You start from {}.", _corner),
    _Slot("ArrivalLocation", "Where do I want to go?", "You want to go to {}.", _corner),
    _Slot("StartDate", "On which date does my stay begin?", "Your stay begins on the {}.", _day_of_month),
    _Slot("EndDate", "On which date does my stay end?", "Your stay ends on the {}.", _day_of_month),
    _Slot("DateOfBirth", "What is my date of birth?", "Your date of birth is {}.", _birth),
    _Slot("SecurityAnswer1", "What was my mother's maiden name?", "Her name was {}.", _draw("last"), "maiden"),
    _Slot("SecurityAnswer2", "What was my pet called?", "Your pet was called {}.", _draw("petname"), "pet"),
)


def star(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """One line for each value that the customer said: the dialogue, a question about the value, its new form."""
    name = str(row.get("DialogueID", row.get("id", "")))
    messages, slots = _messages(row), _slots(row)
    rng = random.Random(f"star {style.seed}/{name}")
    renewed = _Renewed(rng, "\n".join(message["content"] for message in messages))
    said = "\n".join(message["content"] for message in messages if message["role"] == "user")
    asked: dict[str, str] = {}
    for slot in _SLOTS:
        old = slots.get(slot.name, "").strip()
        if not old or slot.word not in renewed.text.lower() or not _whole_word(old).search(said):
            continue
        new = renewed.value(old, slot.draw)
        if new:
            asked.setdefault(slot.ask, slot.answer.format(new))
            del slots[slot.name]
    if not asked:
        yield Skipped("no value that the customer said and that can be drawn anew")
        return
    history = [{**message, "content": renewed(message["content"])} for message in messages]
    for number, (question, answer) in enumerate(asked.items(), start=1):
        yield chat_example(f"{name}/{number}", history, question, answer, style)


class _Renewed:
    """Texts with new values in place of old ones, the same for the same; a person's first name alone too."""

    def __init__(self, rng: random.Random, text: str) -> None:
        self.rng, self.text = rng, text
        self.known: dict[str, str] = {}

    def value(self, old: str, draw: Draw) -> str | None:
        """The new value of an old one: none that the dialogue has already; ``None`` if it cannot be drawn."""
        if old.lower() in self.known:
            return self.known[old.lower()]
        for _ in range(_TRIES):
            new = draw(self.rng, old)
            if new is None:
                return None
            fresh = [part for part in (new, *new.split()) if part not in old.split()]
            if (
                new in fresh
                and new not in self.known.values()
                and not any(_whole_word(part).search(self.text) for part in fresh)
            ):
                self.known |= {**self._alone(old, new), **self.known, old.lower(): new}
                return new
        return None

    @staticmethod
    def _alone(old: str, new: str) -> dict[str, str]:
        """The first name, the surname or the name of the house by itself, as people also say it."""
        parts = list(zip(old.lower().split(), new.split(), strict=False))
        if len(old.split()) != len(new.split()) or "and" in new.split():
            return {}
        return {part: other for part, other in parts if part != other.lower()}

    def __call__(self, text: str) -> str:
        if not self.known:
            return text
        ordered = sorted(self.known, key=len, reverse=True)
        either = "|".join(re.escape(old) for old in ordered)
        return re.sub(rf"(?<!\w)(?:{either})(?!\w)", lambda found: self.known[found[0].lower()], text, flags=re.I)


def _whole_word(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)


def _messages(row: Row) -> list[Message]:
    """What was said: of the authors' events the utterances and the suggestions that were picked."""
    if "Events" not in row:
        turns = need(row, "turns", list)
        if others := {speaker for speaker, _ in turns} - set(_ROLES):
            raise ValueError(f"a turn is of {', '.join(sorted(others))}, not of user or wizard")
        return [{"role": _ROLES[speaker], "content": text} for speaker, text in turns]
    return [
        {"role": _ROLES[event["Agent"]], "content": need(event, "Text", str)}
        for event in need(row, "Events", list)
        if event.get("Action") in ("utter", "pick_suggestion") and event.get("Agent") in _ROLES
    ]


def _slots(row: Row) -> dict[str, str]:
    """The values of the wizard's queries, the last of each name; comparisons and other calls are none."""
    if "Events" not in row:
        return {name: value for name, value in need(row, "slots", dict).items() if isinstance(value, str)}
    found: dict[str, str] = {}
    for event in need(row, "Events", list):
        constraints: list[Mapping[str, Any]] = event.get("Constraints") or []
        for constraint in constraints if event.get("Action") == "query" else ():
            for name, written in constraint.items():
                try:
                    value = from_json(written)
                except (ValueError, TypeError):
                    continue
                if isinstance(value, str):
                    found[name] = value
    return found
