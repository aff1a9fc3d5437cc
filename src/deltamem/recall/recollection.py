"""What a memory is asked, what it says, and whether it knows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from deltamem.recall.calibration import Calibration
from deltamem.recall.evidence import Evidence, Interview
from deltamem.recall.sources import Source, WrittenTurn, find_sources
from deltamem.state import MemoryState

# What a memory is asked when nobody says.
PROFILE: Mapping[str, str] = {
    "name": "What is my name?",
    "home": "Where do I live?",
    "address": "What is my address?",
    "work": "What do I do for work?",
    "birthday": "When is my birthday?",
    "pet": "What pet do I have?",
    "pet name": "What is my pet called?",
    "food": "What is my favourite food?",
    "drink": "What is my favourite drink?",
    "colour": "What is my favourite colour?",
    "music": "What is my favourite music?",
    "hobby": "What is my hobby?",
    "sport": "What is my sport?",
    "instrument": "Which instrument do I play?",
    "language": "What language am I learning?",
    "studies": "What did I study at college?",
    "dislikes": "Which vegetable do I hate?",
    "fear": "What am I afraid of?",
    "plans": "Which country do I want to visit?",
    "wish": "What do I want for a present?",
}


def questions_of(asked: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Questions by their names: those of a mapping, texts by themselves, or :data:`PROFILE` for ``None``.

    Raises:
        ValueError: there is no question, or one without text.
    """
    if isinstance(asked, str):
        raise ValueError(f"Give questions in a sequence or a mapping, such as [{asked!r}].")
    if asked is None:
        return dict(PROFILE)
    found = dict(asked) if isinstance(asked, Mapping) else {question: question for question in asked}
    if not found or not all(question.strip() for question in found.values()):
        raise ValueError("Give at least one question, and none without text.")
    return found


@dataclass(frozen=True)
class Recollection:
    """A question to a memory, and its answer.

    Attributes:
        name: what the question is called.
        question: as it was put.
        answer: the memory's likeliest answer, also if it does not know.
        known: whether the confidence reaches the threshold.
        confidence: the probability that the answer is right.
        calibrated: whether that was fitted to answers of this adapter. If not, use it only to rank answers.
        evidence: what the confidence is based on.
        source: the turn that wrote most of what the answer read; ``None`` if it is not known, or was not looked for.
    """

    name: str
    question: str
    answer: str
    known: bool
    confidence: float
    calibrated: bool
    evidence: Evidence
    source: Source | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the answer that come from the memory, by which turns are found that say it; else the answer."""
        return self.evidence.words or (self.answer,)


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
        asked = [(one.question, one.answer) for one in found if one.known]
        sources = iter(find_sources(interview, asked, state, turns, check=check))
        found = [replace(one, source=next(sources)) if one.known else one for one in found]
    return found
