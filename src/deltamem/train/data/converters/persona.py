"""Synthetic-Persona-Chat (Jandaghi et al., 2023): two people chat; each asks for what they said of themselves."""

import re
from collections.abc import Iterator

from deltamem.chat import Message
from deltamem.train.data.converters.example import Example, Row, Skipped, Style, chat_example, need

# A sentence of a persona, the question that asks for it, and the answer; {} is what the pattern's group holds.
_FORMS = (
    (r"my favou?rite ([\w' ]+?) (?:is|are) (.+)", "What is my favorite {}?", "Your favorite {} is {}."),
    (r"i (?:currently )?live in (.+)", "Where do I live?", "You live in {}."),
    (r"i (?:was born|am from|come from) (?:in )?(.+)", "Where do I come from?", "You come from {}."),
    (r"i (?:grew up|was raised) (?:in|on) (.+)", "Where did I grow up?", "You grew up in {}."),
    (r"i (?:currently )?work (?:as|at|in|for|from) (.+)", "Where do I work, or as what?", "You work at or as {}."),
    (r"i drive (.+)", "What do I drive?", "You drive {}."),
    (r"i own (.+)", "What do I own?", "You own {}."),
    (r"i play (?:the )?(.+)", "What do I play?", "You play {}."),
    (r"i (?:am )?(?:study|studying|major in|majoring in) (.+)", "What do I study?", "You study {}."),
    (r"i (?:volunteer|am a volunteer) at (.+)", "Where do I volunteer?", "You volunteer at {}."),
    (r"i (?:went to|go to|graduated from) (.+)", "Where did I go?", "You went to {}."),
    (r"i (?:am|'m) allergic to (.+)", "What am I allergic to?", "You are allergic to {}."),
    (r"i (?:am|'m) (?:terrified|afraid|scared) of (.+)", "What am I afraid of?", "You are afraid of {}."),
    (r"i (?:hate|dislike|do not like) (.+)", "What do I not like?", "You do not like {}."),
    (r"i (?:like|love|enjoy) (?:to )?(.+)", "What do I like?", "You like {}."),
    (r"i (?:want|hope) to (.+)", "What do I want to do?", "You want to {}."),
    (r"i have (?!been|never|always|not |had |got |worked)(.+)", "What do I have?", "You have {}."),
    (r"my (mother|father|mom|dad|sister|brother|wife|husband) is (.+)", "Who is my {}?", "Your {} is {}."),
    (r"i (?:am|'m) (an? .+)", "What am I?", "You are {}."),
)
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), ask, answer) for pattern, ask, answer in _FORMS)
_YOURS = {"i": "you", "my": "your", "me": "you", "mine": "yours", "myself": "yourself", "am": "are"}
_SPEAKER = re.compile(r"\W*User ([12]):\s*")
_WORD = re.compile(r"\w+")
# What two sentences can share without saying the same.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an the and or of to in on at for with from as by is are was were be been am i my me you your it its that "
        "this do have has had not very also so just all some any more most lot lots there here when where who what",
    )
)
_SHARED = 0.6


def persona(row: Row, style: Style) -> Iterator[Example | Skipped]:
    """For each speaker, who is the user, a line for each sentence of their persona that they said in the chat."""
    for number, sentences in enumerate(_personas(row), start=1):
        turns = _turns(row)
        messages: list[Message] = [
            {"role": "user" if speaker == number else "assistant", "content": text} for speaker, text in turns
        ]
        said = [_keys(text) for speaker, text in turns if speaker == number]
        found: dict[str, list[str]] = {}
        for sentence in sentences:
            asked = _question(sentence)
            if asked is None:
                yield Skipped("a sentence that no question asks for")
            elif not any(_says(turn, _keys(asked[2])) for turn in said):
                yield Skipped("a sentence that was not said in the chat")
            else:
                found.setdefault(asked[0], []).append(asked[1])
        for place, (question, answers) in enumerate(found.items(), start=1):
            if len(answers) > 1:
                yield Skipped("a question with several answers")
                continue
            yield chat_example(f"{row.get('id', '')}/{number}/{place}", messages, question, answers[0], style)


def _question(sentence: str) -> tuple[str, str, str] | None:
    """The question that asks for a sentence, its answer, and what the answer is about."""
    plain = sentence.strip().rstrip(".!").strip()
    for pattern, ask, answer in _PATTERNS:
        if found := pattern.fullmatch(plain):
            parts = [_WORD.sub(lambda word: _YOURS.get(word[0].lower(), word[0]), part) for part in found.groups()]
            return ask.format(*parts), answer.format(*parts), found.groups()[-1]
    return None


def _keys(text: str) -> frozenset[str]:
    """The beginnings of the words that carry a text, so that "knitting" and "knit" agree."""
    return frozenset(word[:4] for word in _WORD.findall(text.lower()) if word not in _COMMON)


def _says(turn: frozenset[str], wanted: frozenset[str]) -> bool:
    return bool(wanted) and len(wanted & turn) >= _SHARED * len(wanted)


def _personas(row: Row) -> list[list[str]]:
    if "personas" in row:
        return [list(sentences) for sentences in need(row, "personas", list)]
    return [need(row, f"user {number} personas", str).splitlines() for number in (1, 2)]


def _turns(row: Row) -> list[tuple[int, str]]:
    """Who says what; a line without a speaker belongs to the turn before."""
    lines = (
        [f"{speaker}: {text}" for speaker, text in need(row, "turns", list)]
        if "turns" in row
        else need(row, "Best Generated Conversation", str).splitlines()
    )
    turns: list[tuple[int, str]] = []
    for line in filter(str.strip, lines):
        if found := _SPEAKER.match(line):
            turns.append((int(found[1]), line[found.end() :].strip()))
        elif turns:
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n{line.strip()}")
    return [turn for turn in turns if turn[1]]
