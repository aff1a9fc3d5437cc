"""Dialogues in which people tell facts, correct them, talk of other things, and what can be asked of them later."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from deltamem.chat import Message
from deltamem.train.data.told.relations import Relation, put, relations
from deltamem.train.data.told.values import FRAMES, OPEN, listed, parts, sample_value

Split = Literal["train", "known", "values", "relations"]
"""What a dialogue has that training dialogues never have.

``train``: nothing. ``known``: the names of people, the telling and the asking of each fact. ``values``: the facts'
values too. ``relations``: the relations instead, with values that are known.
"""

UNKNOWN = "You have not told me that."
KIN = ("sister", "brother", "friend", "cousin", "colleague", "neighbour", "aunt", "boss", "flatmate", "teammate")
ACKS = (
    "Good to know.", "I will remember that.", "Thank you for telling me.", "Noted.", "That is nice to hear.",
    "I see. Is there anything else you would like to share?", "Great! How can I help you with that?", "Understood.",
    "Thanks, I will keep that in mind.", "That sounds wonderful.", "How interesting! Tell me more.", "Okay.",
)  # fmt: skip
CORRECTIONS = ("Actually, {}", "I have to correct myself: {}", "That has changed. {}", "Sorry, I was wrong. {}")
FRAMED_TELLINGS = (
    "By the way: {}", "Just so you know: {}", "Hi there! {}", "I wanted to tell you something. {}", "Guess what! {}",
    "Here is something about us. {}", "{} What do you say to that?", "{} That is how it is.", "{} I hope you are well.",
    "{} Please keep it in mind.", "Oh, and one thing: {}", "{} It has been a long day.", "Where was I? Ah yes. {}",
)  # fmt: skip
FRAMED_QUESTIONS = (
    "Quick question: {}", "One more thing. {}", "I forgot. {}", "Remind me: {}", "By the way: {}", "Hello again! {}",
    "{} One sentence is enough.", "{} I told you before.", "Let us see what you know. {}", "{} Think back.",
    "Thanks. Now tell me: {}", "{} I have it on the tip of my tongue.", "Somebody wants to know: {}",
)  # fmt: skip
TALK = (
    ("Hello!", "Hello! How can I help you today?"),
    ("How are you?", "I am doing well, thank you for asking."),
    ("The weather is awful today.", "I am sorry to hear that. I hope it gets better soon."),
    ("I slept badly last night.", "That is a pity. A short nap may help."),
    ("The bus was late again.", "That must have been annoying."),
    ("Can you tell me a joke?", "Why did the scarecrow win an award? Because he was outstanding in his field."),
    ("What should I cook tonight?", "You could try a simple soup with vegetables and bread."),
    ("I am a bit tired.", "Take a break and drink some water."),
    ("Thank you for your help.", "You are welcome! Let me know if there is anything else."),
    ("I had a long day.", "I hope you can rest this evening."),
    ("What is two plus two?", "Two plus two is four."),
    ("The neighbours were loud this morning.", "That is no way to start a day."),
    ("I watched the rain for an hour.", "That can be very calming."),
    ("Is it good to drink water before bed?", "A small glass of water is fine for most people."),
    ("I lost my umbrella on the train.", "You could ask at the lost property office."),
    ("Let us talk about something else.", "Of course. What would you like to talk about?"),
)


_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Fact:
    """What holds of a subject at the end of a dialogue.

    Attributes:
        subject: a name, or empty for the user.
        kin: what that person is to the user, or empty.
        relation: what is told.
        value: of the fact; empty where it was not told.
        replaces: the earlier value where it was corrected, else empty.
    """

    subject: str
    kin: str
    relation: Relation
    value: str
    replaces: str = ""


@dataclass(frozen=True)
class Question:
    """A question about a fact, and the sentence that answers it: :data:`UNKNOWN` where it was not told."""

    ask: str
    answer: str
    fact: Fact

    @property
    def value(self) -> str:
        """The part of the answer that only a memory knows; empty where nothing was told."""
        return self.fact.value


@dataclass(frozen=True)
class Dialogue:
    """Chat messages, and the questions that they answer."""

    messages: tuple[Message, ...]
    questions: tuple[Question, ...]


Reply = Callable[[random.Random, Fact, str], str]
"""Draws what is replied to a fact with this value."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How dialogues are drawn.

    Attributes:
        facts: the fewest and the most facts of a dialogue.
        others: the share of facts about people other than the user.
        open_values: the share of facts whose value is any word, name or made-up word, whatever the relation.
        corrected: the share of facts that are told wrongly first, or change.
        unknown: questions about what was not told, for each that was.
        together: the share of facts told in one message with the one before.
        answered: the share of messages that the assistant answers.
        replied: the share of these answers to facts that are a backbone's own replies.
        talk: exchanges of small talk, for each fact.
        also_ask: whether training asks in the wordings of ``also_ask`` too; see :class:`Relation`.
        further: whether training tells and asks in the wordings of ``further.yaml`` too.
        framed: the share of tellings and of questions in training that have other words before or after them.
        strict: whether training keeps held-out values out of composed values too ("Lopez Works" where "Lopez" is held
            out), and tests take none that training has in a short list or in a wording ("ruby", "street").

    Raises:
        ValueError: a field has an impossible value; the message names it.
    """

    facts: tuple[int, int] = (1, 1)
    others: float = 0.25
    open_values: float = 0.35
    corrected: float = 0.0
    unknown: float = 0.0
    together: float = 0.2
    answered: float = 0.5
    replied: float = 0.0
    talk: float = 0.2
    also_ask: bool = False
    further: bool = False
    framed: float = 0.0
    strict: bool = False

    def __post_init__(self) -> None:
        fewest, most = self.facts
        if not 1 <= fewest <= most:
            raise ValueError(f"facts must be two numbers from 1 up, such as 1 and 4, not {fewest} and {most}.")
        for name in ("others", "open_values", "corrected", "together", "answered", "replied", "framed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must be from 0 to 1, not {getattr(self, name)}.")
        for name in ("unknown", "talk"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}.")


def sample_dialogue(rng: random.Random, mix: Mix, split: Split = "train", reply: Reply | None = None) -> Dialogue:
    """A dialogue whose facts are about different things.

    Args:
        rng: draws it.
        mix: how.
        split: what is held out.
        reply: what a backbone answers to a fact and its value, for ``mix.replied``.

    Raises:
        ValueError: there are too few relations for so many facts and questions.
    """
    train = split == "train"
    pool = relations(held=split == "relations")
    if split == "values":
        mix = replace(mix, open_values=max(mix.open_values, 0.35))
    people = [(rng.choice(KIN), _sample(rng, "first", mix, unseen=not train)) for _ in range(rng.choice((1, 2)))]
    count = rng.randint(*mix.facts)
    keys: list[tuple[tuple[str, str], Relation]] = []
    while len(keys) < count:
        who = rng.choice(people) if rng.random() < mix.others else ("", "")
        free = [relation for relation in pool if (who, relation) not in keys]
        if not free:
            raise ValueError(f"There are only {len(pool)} relations to tell {count} facts of.")
        keys.append((who, rng.choice(free)))
    facts = []
    for (kin, subject), relation in keys:
        value = _value(rng, relation, mix, split)
        replaces = _other_value(rng, relation, mix, split, value) if rng.random() < mix.corrected else ""
        facts.append(Fact(subject, kin, relation, value, replaces))
    questions = [_question(rng, fact, mix, train) for fact in facts]
    for _ in range(_count(rng, mix.unknown * count)):
        who = rng.choice([*people, ("", ""), ("", "")])
        untold = [relation for relation in pool if (who, relation) not in keys]
        if not untold:
            raise ValueError(f"There are only {len(pool)} relations, and all were told; ask for fewer unknown ones.")
        questions.append(_question(rng, Fact(who[1], who[0], rng.choice(untold), ""), mix, train))
    rng.shuffle(questions)
    return Dialogue(tuple(_messages(rng, facts, mix, train, reply)), tuple(questions))


def _messages(rng: random.Random, facts: Sequence[Fact], mix: Mix, train: bool, reply: Reply | None) -> list[Message]:
    events: list[tuple[Fact, str, bool] | None] = [(fact, fact.replaces or fact.value, False) for fact in facts]
    for fact in facts:
        if fact.replaces:
            first = next(place for place, event in enumerate(events) if event and event[0] is fact)
            events.insert(rng.randint(first + 1, len(events)), (fact, fact.value, True))
    for _ in range(_count(rng, mix.talk * len(facts))):
        events.insert(rng.randint(0, len(events)), None)
    messages: list[Message] = []
    met: set[str] = set()
    told_last = False
    for event in events:
        if event is None:
            said, answer = rng.choice(TALK)
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
            told_last = False
            continue
        fact, value, again = event
        subject = _mention(rng, fact, introduce=fact.subject not in met)
        met.add(fact.subject)
        template = rng.choice(_trained_tellings(fact.relation, mix)) if train else fact.relation.tell[-1]
        text = put(template, value=value, subject=subject)
        if again:
            text = rng.choice(CORRECTIONS).format(text)
        elif train:
            text = _framed(rng, text, FRAMED_TELLINGS, mix)
        if told_last and not again and messages[-1]["role"] == "user" and rng.random() < mix.together:
            messages[-1] = {"role": "user", "content": f"{messages[-1]['content']} {text}"}
            continue
        messages.append({"role": "user", "content": text})
        told_last = True
        if rng.random() < mix.answered:
            answer = reply(rng, fact, value) if reply and rng.random() < mix.replied else rng.choice(ACKS)
            messages.append({"role": "assistant", "content": answer})
    return messages


def _question(rng: random.Random, fact: Fact, mix: Mix, train: bool) -> Question:
    answer = put(fact.relation.answer, value=fact.value, subject=fact.subject, speaker="assistant")
    template = rng.choice(_trained_askings(fact.relation, mix)) if train else fact.relation.ask[-1]
    ask = put(template, subject=_mention(rng, fact))
    if train:
        ask = _framed(rng, ask, FRAMED_QUESTIONS, mix)
    return Question(ask, answer if fact.value else UNKNOWN, fact)


def _framed(rng: random.Random, text: str, frames: Sequence[str], mix: Mix) -> str:
    """The text, with other words before or after it in the share of cases that the mix says."""
    return rng.choice(frames).format(text) if mix.framed and rng.random() < mix.framed else text


def _trained_tellings(relation: Relation, mix: Mix) -> list[str]:
    return [*relation.tell[:-1], *(relation.further_tell if mix.further else ())]


def _trained_askings(relation: Relation, mix: Mix) -> list[str]:
    also = relation.also_ask if mix.also_ask else ()
    return [*relation.ask[:-1], *also, *(relation.further_ask if mix.further else ())]


def _mention(rng: random.Random, fact: Fact, *, introduce: bool = False) -> str:
    if not fact.subject:
        return ""
    return f"my {fact.kin} {fact.subject}" if introduce or rng.random() < 0.3 else fact.subject


def _value(rng: random.Random, relation: Relation, mix: Mix, split: Split) -> str:
    unseen = split == "values"
    kind = relation.values
    if rng.random() < mix.open_values or (unseen and kind not in OPEN):
        kind = rng.choice(("word", "word", "first", "last", "city", "coined"))
    return _sample(rng, kind, mix, unseen=unseen)


def _sample(rng: random.Random, kind: str, mix: Mix, *, unseen: bool) -> str:
    """A value, or the name of somebody; one that is held out is strictly no word that training has elsewhere."""
    while True:
        value = sample_value(rng, kind, unseen=unseen, strict=mix.strict)
        if not (mix.strict and unseen and everyday_words().intersection(map(str.lower, parts(value, kind)))):
            return value


@cache
def everyday_words() -> frozenset[str]:
    """The words of all wordings, small talk and short lists, in lower case: training has them whatever is held out."""
    texts = [
        *KIN,
        *ACKS,
        *CORRECTIONS,
        *FRAMED_TELLINGS,
        *FRAMED_QUESTIONS,
        *(text for pair in TALK for text in pair),
        UNKNOWN,
        *FRAMES,
    ]
    for relation in (*relations(), *relations(held=True)):
        further = (*relation.further_tell, *relation.further_ask)
        for wording in (*relation.tell, *relation.ask, *relation.also_ask, *further, relation.answer):
            texts += [put(wording), put(wording, subject="0"), put(wording, speaker="assistant")]
    texts += [value for values in listed().values() for value in values]
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))


def _other_value(rng: random.Random, relation: Relation, mix: Mix, split: Split, value: str) -> str:
    while (other := _value(rng, relation, mix, split)) == value:
        pass
    return other


def _count(rng: random.Random, expected: float) -> int:
    whole = int(expected)
    return whole + (rng.random() < expected - whole)
