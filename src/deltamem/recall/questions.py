"""What a memory is asked when nobody says: a profile of the person who talked to it."""

from collections.abc import Mapping, Sequence

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
