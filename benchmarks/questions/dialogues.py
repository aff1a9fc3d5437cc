"""What the questions say to the memory beyond the dialogues of the demo's world."""

import random
from collections.abc import Sequence
from dataclasses import replace

from deltamem.demo.lexicon import Split, lexicon, render, sentence
from deltamem.demo.measure import relevant_turns
from deltamem.demo.reader import Asked, History, Reader
from deltamem.demo.world import (
    USER,
    Dialogue,
    Event,
    Fact,
    Person,
    current_facts,
    question,
    sample_events,
)


def about_strangers(
    rng: random.Random, known: Sequence[Person], *, facts: int, split: Split = "train"
) -> tuple[list[Event], tuple[Person, ...]]:
    """Facts about people who share neither name nor relation with those known: a few of ``facts``, and the people."""
    names, relations = {each.name for each in known}, {each.relation for each in known}
    while True:
        events, people = sample_events(rng, facts=facts, split=split)
        strangers = tuple(each for each in people if each.name not in names and each.relation not in relations)
        told = [event for event in events if event.fact and event.fact.subject in {each.name for each in strangers}]
        if told:
            return told, strangers


def many_facts(rng: random.Random, facts: int) -> Dialogue:
    """A held-out dialogue of any number of facts.

    The world has 30 attributes and at most two people beside the user. Facts beyond that are about further people, in
    random places among the others.
    """
    events, people = sample_events(rng, facts=min(facts, len(lexicon().attributes)), split="test")
    while len(events) < facts:
        more, strangers = about_strangers(rng, people, facts=len(lexicon().attributes), split="test")
        events = _mixed(rng, events, more[: facts - len(events)])
        people += strangers
    told = current_facts(events)
    messages = tuple(message for event in events for message in event.messages)
    return Dialogue(messages, told, tuple(question(rng, fact, people) for fact in told), people)


def contradiction(rng: random.Random, fact: Fact) -> Fact:
    """The same key with another value, in a held-out phrasing that does not say that it corrects anything."""
    attribute = lexicon().attributes[fact.attribute]
    value = rng.choice([other for other in attribute.values if other != fact.value])
    subject = "" if fact.subject == USER else fact.subject
    tell = sentence(render(rng.choice(attribute.tells(value, "test")), subject=subject, value=value))
    return replace(fact, value=value, tell=tell)


def read_retrieved(reader: Reader, histories: Sequence[History], asked: Sequence[Asked]) -> list[bool]:
    """Which answers come out right with the turns in the window that BM25 finds for each question."""
    prompts = [relevant_turns(histories[each.row], [each.ask])[0] for each in asked]
    return reader.read(None, prompts, [replace(each, row=place) for place, each in enumerate(asked)])


def _mixed(rng: random.Random, first: list[Event], second: list[Event]) -> list[Event]:
    """Both in one order, each in its own order."""
    places = [True] * len(first) + [False] * len(second)
    rng.shuffle(places)
    left, right = iter(first), iter(second)
    return [next(left if mine else right) for mine in places]
