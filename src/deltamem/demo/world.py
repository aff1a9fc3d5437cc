"""A toy world of short chats in which people state facts, correct them, talk about other things, and ask.

Everything follows from the random generator that is passed in. The test split never meets the training split: other
names, other pairs of value and phrasing, hence other dialogues.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

from deltamem.demo.lexicon import Split, lexicon, render, sentence

UNKNOWN = "I don't know."
USER = "user"
_OTHERS_SHARE = 0.28
_RELATION_SHARE = 0.5
SUGGESTIONS = (
    ("I settled in Lisbon some years ago.", "Which city do I live in?"),
    ("There is a tortoise at home with me.", "What pet do I have?"),
    ("My friend Ravi practises the cello daily.", "What is Ravi's instrument?"),
    ("My birthday falls on July 20.", "On what day was I born?"),
    ("Actually, I live in Porto now.", "Which city do I live in?"),
)
"""What you can tell the embedded backbone, and the question that asks for it."""


@dataclass(frozen=True)
class Utterance:
    """One turn of a chat; ``role`` is "user" or "assistant"."""

    role: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """The form chat templates take."""
        return {"role": self.role, "content": self.text}


@dataclass(frozen=True)
class Fact:
    """What holds of a subject ("user" or a name); ``tell`` is the message that said so last.

    ``replaces`` is the earlier value, if this fact corrected one, else empty.
    """

    subject: str
    attribute: str
    value: str
    tell: str
    replaces: str = ""


@dataclass(frozen=True)
class Question:
    """A question and its answer; ``fact`` is None when nothing in the dialogue answers it."""

    ask: str
    answer: str
    fact: Fact | None


@dataclass(frozen=True)
class Dialogue:
    """A history of turns, the facts that hold at its end, and one question for each of them."""

    messages: tuple[Utterance, ...]
    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]
    people: tuple["Person", ...] = ()


@dataclass(frozen=True)
class Person:
    """Somebody the user talks about."""

    name: str
    relation: str


@dataclass(frozen=True)
class Event:
    """One step of a dialogue: the messages it adds, and the fact it makes current (None for small talk)."""

    messages: tuple[Utterance, ...]
    fact: Fact | None = None


@dataclass(frozen=True)
class _Plan:
    """A fact, or its correction, before it is put into words."""

    person: Person | None
    attribute: str
    value: str
    replaces: str = ""


def sample_dialogue(
    rng: random.Random,
    *,
    facts: int,
    corrections: int = 0,
    small_talk: int = 0,
    split: Split = "train",
    attributes: Collection[str] = (),
) -> Dialogue:
    """A dialogue with ``facts`` keys, of which ``corrections`` are corrected, and ``small_talk`` other exchanges.

    Its facts are about ``attributes``, all by default.
    """
    events, people = sample_events(
        rng, facts=facts, corrections=corrections, small_talk=small_talk, split=split, attributes=attributes
    )
    current = current_facts(events)
    return Dialogue(
        messages=tuple(message for event in events for message in event.messages),
        facts=current,
        questions=tuple(question(rng, fact, people) for fact in current),
        people=people,
    )


def sample_events(
    rng: random.Random,
    *,
    facts: int,
    corrections: int = 0,
    small_talk: int = 0,
    split: Split = "train",
    attributes: Collection[str] = (),
) -> tuple[list[Event], tuple[Person, ...]]:
    """The steps of a dialogue in order, and the people it is about.

    Raises ValueError if there are more corrections than facts, more facts than keys, or unknown attributes.
    """
    kinds = _kinds(attributes)
    if not 0 <= corrections <= facts <= len(kinds):
        raise ValueError(f"cannot make {facts} facts with {corrections} corrections of {len(kinds)} attributes")
    about_others = sum(rng.random() < _OTHERS_SHARE for _ in range(facts))
    people = sample_people(rng, min(about_others, rng.choice((1, 2))), split)
    order: list[_Plan | None] = [*_plan_facts(rng, facts, about_others, people, kinds), *[None] * small_talk]
    rng.shuffle(order)
    for plan in rng.sample([plan for plan in order if plan], corrections):
        order.insert(rng.randint(order.index(plan) + 1, len(order)), _correct(rng, plan))
    met: set[Person] = set()
    events = [_say(rng, plan, met, split) if plan else Event(tuple(chat(rng, 1))) for plan in order]
    return events, people


def sample_people(rng: random.Random, count: int, split: Split) -> tuple[Person, ...]:
    """People with different names and relations."""
    names = rng.sample(lexicon().names[split], count)
    relations = rng.sample(lexicon().relations, count)
    if split == "train":
        names = [_blend(rng, name) for name in names]
    return tuple(Person(name, relation) for name, relation in zip(names, relations, strict=True))


def current_facts(events: list[Event]) -> tuple[Fact, ...]:
    """The last word on every key, in the order of first mention."""
    current = {(event.fact.subject, event.fact.attribute): event.fact for event in events if event.fact}
    return tuple(current.values())


def question(rng: random.Random, fact: Fact, people: tuple[Person, ...]) -> Question:
    """A question that ``fact`` answers, naming its subject as one of ``people``."""
    person = next((person for person in people if person.name == fact.subject), None)
    return Question(_ask(rng, person, fact.attribute), f"{fact.value}.", fact)


def unanswerable_question(
    rng: random.Random,
    facts: tuple[Fact, ...],
    people: tuple[Person, ...],
    split: Split,
    attributes: Collection[str] = (),
) -> Question:
    """A question none of ``facts`` answers: often about an attribute that is known of somebody else."""
    kinds = _kinds(attributes)
    known = {(fact.subject, fact.attribute) for fact in facts}
    told = sorted({fact.attribute for fact in facts})
    stranger = sample_people(rng, 1, split)[0]
    while True:
        person = rng.choice((None, None, *people, stranger))
        attribute = rng.choice(told if told and rng.random() < 0.4 else kinds)
        if (person.name if person else USER, attribute) not in known:
            return Question(_ask(rng, person, attribute), UNKNOWN, None)
        if rng.random() < 0.5:
            told = []


def chat(rng: random.Random, exchanges: int) -> list[Utterance]:
    """Small talk: ``exchanges`` pairs of a user and an assistant message that say nothing about any attribute."""
    messages = []
    for _ in range(exchanges):
        said, reply = rng.choice(lexicon().small_talk)
        words = {slot: rng.choice(options) for slot, options in lexicon().slots.items()}
        messages += [Utterance("user", said.format(**words)), Utterance("assistant", reply.format(**words))]
    return messages


def held_out_facts(seed: int, count: int) -> list[dict[str, str]]:
    """``count`` facts of the test split, each with how it is told, asked and answered."""
    rng = random.Random(seed)
    asked = [sample_dialogue(rng, facts=1, split="test").questions[0] for _ in range(count)]
    return [{"tell": one.fact.tell, "ask": one.ask, "answer": one.answer} for one in asked if one.fact]


def _kinds(attributes: Collection[str]) -> list[str]:
    """The names of ``attributes`` in the lexicon's order; of none given, all."""
    known = lexicon().attributes
    if unknown := sorted(set(attributes) - set(known)):
        raise ValueError(f"There is no attribute {', '.join(map(repr, unknown))}; there are: {', '.join(known)}.")
    return [name for name in known if not attributes or name in attributes]


def _plan_facts(
    rng: random.Random, facts: int, about_others: int, people: tuple[Person, ...], kinds: list[str]
) -> list[_Plan]:
    subjects: list[Person | None] = [None] * (facts - about_others) + list(people)
    subjects += [rng.choice(people) for _ in range(facts - len(subjects))]
    plans: list[_Plan] = []
    for person in subjects:
        taken = {plan.attribute for plan in plans if plan.person == person}
        attribute = rng.choice([name for name in kinds if name not in taken])
        plans.append(_Plan(person, attribute, rng.choice(lexicon().attributes[attribute].values)))
    return plans


def _correct(rng: random.Random, plan: _Plan) -> _Plan:
    others = [value for value in lexicon().attributes[plan.attribute].values if value != plan.value]
    return _Plan(plan.person, plan.attribute, rng.choice(others), replaces=plan.value)


def _say(rng: random.Random, plan: _Plan, met: set[Person], split: Split) -> Event:
    attribute = lexicon().attributes[plan.attribute]
    subject = _mention(rng, plan.person, introduce=plan.person not in met)
    if plan.person:
        met.add(plan.person)
    phrasing = rng.choice(attribute.tells(plan.value, split))
    if plan.replaces and rng.random() < 0.5:
        phrasing = rng.choice(attribute.change)
    text = render(phrasing, subject=subject, value=plan.value)
    acks = lexicon().acks
    if plan.replaces:
        opening = rng.choice(lexicon().correction_prefixes(plan.attribute, plan.value, split))
        text, acks = opening.format(t=text), lexicon().correction_acks
    tell = sentence(text)
    fact = Fact(plan.person.name if plan.person else USER, plan.attribute, plan.value, tell, plan.replaces)
    return Event((Utterance("user", tell), Utterance("assistant", rng.choice(acks))), fact)


def _ask(rng: random.Random, person: Person | None, attribute: str) -> str:
    template = rng.choice(lexicon().attributes[attribute].ask)
    return sentence(render(template, subject=_mention(rng, person)))


def _mention(rng: random.Random, person: Person | None, *, introduce: bool = False) -> str:
    if person is None:
        return ""
    if introduce or rng.random() < _RELATION_SHARE:
        return f"my {person.relation} {person.name}"
    return person.name


def _blend(rng: random.Random, name: str) -> str:
    """Half of the time a made-up name, so that a model learns to read any name instead of a list of them."""
    if rng.random() < 0.5:
        return name
    other = rng.choice(lexicon().names["train"])
    made_up = name[: max(2, len(name) // 2)] + other[len(other) // 2 :]
    return name if made_up in lexicon().names["test"] else made_up
