"""What the embedded backbone and its adapters have never met: values, wordings of questions, and attributes."""

import random
from collections.abc import Mapping
from dataclasses import replace

from deltamem.demo.lexicon import Attribute, lexicon, render, sentence
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


ATTRIBUTES = {
    "shoe_size": Attribute(
        "shoe_size",
        ("thirty-six", "thirty-nine", "forty-two", "forty-five"),
        tell=("{P} shoe size is {v}.", "{S} {take|takes} shoes of size {v}."),
        change=(),
        ask=("What is {P} shoe size?", "Which size of shoes {do} {S} take?"),
    ),
    "doctor": Attribute(
        "doctor",
        ("Doctor Hale", "Doctor Okafor", "Doctor Lindt", "Doctor Moss"),
        tell=("{P} doctor is {v}.", "{S} {go|goes} to {v} when ill."),
        change=(),
        ask=("Who is {P} doctor?", "To whom {do} {S} go when ill?"),
    ),
    "bus": Attribute(
        "bus",
        ("seven", "twelve", "thirty", "fifty-one"),
        tell=("{S} {take|takes} bus number {v} to work.", "{P} bus has the number {v}."),
        change=(),
        ask=("Which bus {do} {S} take?", "What number has {P} bus?"),
    ),
    "bread": Attribute(
        "bread",
        ("rye", "sourdough", "spelt", "ciabatta"),
        tell=("{P} usual bread is {v}.", "the bread {S} {eat|eats} is {v}."),
        change=(),
        ask=("What is {P} usual bread?", "Which bread {do} {S} eat?"),
    ),
}


def with_new_values(rng: random.Random, facts: int) -> Dialogue:
    """The user's facts, told and asked as ever, with values that the world does not have."""
    kinds = lexicon().attributes
    return _dialogue(rng, facts, {name: replace(kinds[name], values=values) for name, values in VALUES.items()})


def with_new_wordings(rng: random.Random, facts: int) -> Dialogue:
    """The user's facts, told as ever, and asked in words that no question of the world has."""
    kinds = lexicon().attributes
    return _dialogue(rng, facts, {name: replace(kinds[name], ask=asks) for name, asks in ASKS.items()})


def with_new_attributes(rng: random.Random, facts: int) -> Dialogue:
    """Facts of the user of kinds that the world does not have."""
    return _dialogue(rng, facts, ATTRIBUTES)


def crowd(rng: random.Random, facts: int, others: int) -> Dialogue:
    """The user's facts among many others about many people, which nobody asks for: no two of one kind of one person."""
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


def _dialogue(rng: random.Random, facts: int, kinds: Mapping[str, Attribute]) -> Dialogue:
    """A dialogue of so many facts of the user, a kind each; its facts are those of the world's own kinds."""
    own = lexicon().attributes
    plan = []
    for name in rng.sample(sorted(kinds), facts):
        value = rng.choice(kinds[name].values)
        tells = kinds[name].tells(value, "test") if name in own else kinds[name].tell
        plan.append((name, value, rng.choice(tells), rng.choice(kinds[name].ask)))
    messages: list[Utterance] = []
    told, questions = [], []
    for name, value, tell, ask in plan:
        said = sentence(render(tell, value=value))
        fact = Fact(USER, name, value, said)
        messages += _said(rng, said, fact).messages
        if name in own:
            told.append(fact)
        questions.append(Question(sentence(render(ask)), f"{value}.", fact))
    return Dialogue(tuple(messages), tuple(told), tuple(questions))


def _said(rng: random.Random, tell: str, fact: Fact) -> Event:
    return Event((Utterance(USER, tell), Utterance("assistant", rng.choice(lexicon().acks))), fact)
