"""Public data sets as training lines: a document or a dialogue to remember, then a question, then its answer."""

from deltamem.train.data.converters.convert import KINDS, Conversion, Kind, convert
from deltamem.train.data.converters.example import Example, Skipped, Style

__all__ = ["KINDS", "Conversion", "Example", "Kind", "Skipped", "Style", "convert"]
