"""What a memory says to a question, and whether it knows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from deltamem.recall.calibration import Calibration
from deltamem.recall.evidence import Evidence, Interview
from deltamem.recall.sources import Source, WrittenTurn, find_sources
from deltamem.state import MemoryState


@dataclass(frozen=True)
class Recollection:
    """A question to a memory, and what came of it.

    Attributes:
        name: what the question is called.
        question: as it was put.
        answer: the memory's likeliest answer, whether it knows or not.
        known: whether the confidence reaches the threshold.
        confidence: the probability that the answer is right.
        calibrated: whether that was fitted to answers of this adapter. If not, take it as an order, not as a rate.
        evidence: what it follows from.
        source: the turn that wrote most of what the answer read; ``None`` where it is not known, or nobody looked.
    """

    name: str
    question: str
    answer: str
    known: bool
    confidence: float
    calibrated: bool
    evidence: Evidence
    source: Source | None = None


def recollect(
    interview: Interview,
    calibration: Calibration,
    questions: Mapping[str, str],
    state: MemoryState,
    *,
    threshold: float = 0.5,
    turns: Sequence[WrittenTurn] = (),
    check: Callable[[], None] = lambda: None,
) -> list[Recollection]:
    """Asks a memory.

    Args:
        interview: puts the questions.
        calibration: makes a confidence of the evidence.
        questions: by name.
        state: the memory, one row.
        threshold: the least confidence of what is known.
        turns: what was written to it, the last of which left ``state``, to find where answers came from.
        check: called between two steps; what it raises ends the work.

    Raises:
        ValueError: a question is too long, or the threshold lies outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability from 0 to 1, not {threshold}.")
    found: list[Recollection] = []
    for name, question in questions.items():
        check()
        evidence = interview.ask(question, state)
        confidence = calibration.confidence(evidence)
        known = confidence > 0 and confidence >= threshold
        found.append(Recollection(name, question, evidence.answer, known, confidence, calibration.fitted, evidence))
    if turns:
        known_places = [place for place, one in enumerate(found) if one.known]
        asked = [(found[place].question, found[place].answer) for place in known_places]
        sources = find_sources(interview, asked, state, turns, check=check)
        for place, source in zip(known_places, sources, strict=True):
            found[place] = replace(found[place], source=source)
    return found
