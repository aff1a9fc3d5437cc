"""What the embedded backbone and its adapters have never met: values, wordings of questions, and attributes."""

import random
from dataclasses import dataclass

from deltamem.demo.lexicon import lexicon, render, sentence
from deltamem.demo.world import USER, Dialogue, Event, Fact, Person, Question, Utterance

# By attribute of the world, each of one kind with those it has.
VALUES = {
    "city": ("Tallinn", "Zagreb", "Bergen", "Porto Velho"),
    "instrument": ("dulcimer", "zither", "marimba", "celesta"),
    "pet": ("axolotl", "chinchilla", "alpaca", "capybara"),
    "colour": ("cerise", "ochre", "mauve", "indigo blue"),
    "food": ("kimchi", "tagine", "fondue", "pierogi"),
    "job": ("florist", "surveyor", "glazier", "beekeeper"),
}
ASKS = {
    "city": ("Name the city {S} {call|calls} home.", "In what town would one find {me}?"),
    "instrument": ("On what {do} {S} make music?", "Name the instrument that {S} {play|plays}."),
    "pet": ("Name the animal that lives with {me}.", "What creature {do} {S} own?"),
    "colour": ("Name the colour that pleases {me} most.", "In which colour would {S} paint a room?"),
    "food": ("Name the meal that {S} would choose.", "What would {S} like to eat best of all?"),
    "job": ("Name the profession of {me}.", "By what work {do} {S} make money?"),
}


@dataclass(frozen=True)
class _Attribute:
    """A kind of fact that the world does not have."""

    values: tuple[str, ...]
    tell: tuple[str, ...]
    ask: tuple[str, ...]


ATTRIBUTES = {
    "shoe_size": _Attribute(
        ("thirty-six", "thirty-nine", "forty-two", "forty-five"),
        ("{P} shoe size is {v}.", "{S} {take|takes} shoes of size {v}."),
        ("What is {P} shoe size?", "Which size of shoes {do} {S} take?"),
    ),
    "doctor": _Attribute(
        ("Doctor Hale", "Doctor Okafor", "Doctor Lindt", "Doctor Moss"),
        ("{P} doctor is {v}.", "{S} {go|goes} to {v} when ill."),
        ("Who is {P} doctor?", "To whom {do} {S} go when ill?"),
    ),
    "bus": _Attribute(
        ("seven", "twelve", "thirty", "fifty-one"),
        ("{S} {take|takes} bus number {v} to work.", "{P} bus has the number {v}."),
        ("Which bus {do} {S} take?", "What number has {P} bus?"),
    ),
    "bread": _Attribute(
        ("rye", "sourdough", "spelt", "ciabatta"),
        ("{P} usual bread is {v}.", "the bread {S} {eat|eats} is {v}."),
        ("What is {P} usual bread?", "Which bread {do} {S} eat?"),
    ),
}


def with_new_values(rng: random.Random, facts: int) -> Dialogue:
    """The user's facts, told and asked as ever, with values that the world does not have."""
    chosen = rng.sample(sorted(VALUES), facts)
    kinds = lexicon().attributes
    return _dialogue(
        rng,
        [
            (name, value, rng.choice(kinds[name].tells(value, "test")), rng.choice(kinds[name].ask))
            for name in chosen
            for value in [rng.choice(VALUES[name])]
        ],
    )


def with_new_wordings(rng: random.Random, facts: int) -> Dialogue:
    """The user's facts, told as ever, and asked in words that no question of the world has."""
    kinds = lexicon().attributes
    return _dialogue(
        rng,
        [
            (name, value, rng.choice(kinds[name].tells(value, "test")), rng.choice(ASKS[name]))
            for name in rng.sample(sorted(ASKS), facts)
            for value in [rng.choice(kinds[name].values)]
        ],
    )


def with_new_attributes(rng: random.Random, facts: int) -> Dialogue:
    """Facts of the user of kinds that the world does not have."""
    return _dialogue(
        rng,
        [
            (name, rng.choice(kind.values), rng.choice(kind.tell), rng.choice(kind.ask))
            for name in rng.sample(sorted(ATTRIBUTES), facts)
            for kind in [ATTRIBUTES[name]]
        ],
    )


def crowd(rng: random.Random, facts: int, others: int) -> Dialogue:
    """The user's facts among many about many people, which nobody asks for.

    Args:
        rng: the source of randomness.
        facts: the user's.
        others: how many are told of other people, each another attribute of another person.
    """
    kinds, names = lexicon().attributes, lexicon().names["test"]
    own = [(None, name) for name in rng.sample(sorted(kinds), facts)]
    relations = {name: rng.choice(lexicon().relations) for name in names}
    keys = [(Person(who, relations[who]), name) for who in names for name in sorted(kinds)]
    plan = [*own, *rng.sample(keys, others)]
    rng.shuffle(plan)
    events = []
    for person, name in plan:
        value = rng.choice(kinds[name].values)
        subject = "" if person is None else rng.choice((person.name, f"my {person.relation} {person.name}"))
        tell = sentence(render(rng.choice(kinds[name].tells(value, "test")), subject=subject, value=value))
        fact = Fact(USER if person is None else person.name, name, value, tell)
        events.append(_said(rng, tell, fact))
    told = [event.fact for event in events if event.fact]
    asks = [
        Question(sentence(render(rng.choice(kinds[fact.attribute].ask))), f"{fact.value}.", fact)
        for fact in told
        if fact.subject == USER
    ]
    return Dialogue(tuple(message for event in events for message in event.messages), tuple(told), tuple(asks))


def _dialogue(rng: random.Random, plan: list[tuple[str, str, str, str]]) -> Dialogue:
    """A dialogue of the user's facts: attribute, value, and how it is told and asked; its facts are the world's own."""
    messages: list[Utterance] = []
    facts, questions = [], []
    for name, value, tell, ask in plan:
        said = sentence(render(tell, value=value))
        fact = Fact(USER, name, value, said)
        messages += _said(rng, said, fact).messages
        if name in lexicon().attributes:
            facts.append(fact)
        questions.append(Question(sentence(render(ask)), f"{value}.", fact))
    return Dialogue(tuple(messages), tuple(facts), tuple(questions))


def _said(rng: random.Random, tell: str, fact: Fact) -> Event:
    return Event((Utterance(USER, tell), Utterance("assistant", rng.choice(lexicon().acks))), fact)
