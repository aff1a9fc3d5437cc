"""Reading a memory: what it answers to a set of questions, how sure that is, and which words wrote it."""

from deltamem.recall.calibration import Calibration, calibration_of
from deltamem.recall.evidence import Evidence, Interview
from deltamem.recall.recollection import PROFILE, Recollection, questions_of, recollect
from deltamem.recall.sources import Source, SourceMessage, WrittenTurn, find_sources

__all__ = [
    "PROFILE",
    "Calibration",
    "Evidence",
    "Interview",
    "Recollection",
    "Source",
    "SourceMessage",
    "WrittenTurn",
    "calibration_of",
    "find_sources",
    "questions_of",
    "recollect",
]
