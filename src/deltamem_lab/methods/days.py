"""The days of a history, from the dates that benchmarks write in their own words."""

import re
from collections.abc import Sequence
from datetime import date

from deltamem_lab.interface import Document, Entry

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR_FIRST = re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b")
_DAY_FIRST = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)? ([A-Za-z]{3})[a-z]*\.?,? (\d{4})\b")
_MONTH_FIRST = re.compile(r"\b([A-Za-z]{3})[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})\b")


def day_of(text: str) -> int | None:
    """The number of the day that a text names, counted from the year 1, or none."""
    if found := _YEAR_FIRST.search(text):
        year, month, day = (int(part) for part in found.groups())
    elif found := _DAY_FIRST.search(text):
        year, month, day = int(found[3]), _month(found[2]), int(found[1])
    elif found := _MONTH_FIRST.search(text):
        year, month, day = int(found[3]), _month(found[1]), int(found[2])
    else:
        return None
    try:
        return date(year, month, day).toordinal()
    except ValueError:
        return None


def days_of(history: Sequence[Entry]) -> list[int]:
    """The day of each entry, never before that of the entry before it.

    An entry without a date is of the same day as the one before it. A date that cannot be read counts as the next day
    where it differs from the last. A history without dates is one day.
    """
    days: list[int] = []
    day, last = 0, ""
    for entry in history:
        text = date_of(entry)
        if text and text != last:
            day, last = max(day, day_of(text) or day + 1), text
        days.append(day)
    return days


def date_of(entry: Entry) -> str:
    """The date of an entry as it was written; empty for none."""
    return entry.date if isinstance(entry, Document) else ""


def _month(name: str) -> int:
    """1 to 12, or 0 for a word that is no month."""
    return _MONTHS.index(name.lower()) + 1 if name.lower() in _MONTHS else 0
