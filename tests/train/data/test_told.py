"""Told facts: what is held out stays out of training, sentences agree, and only the value's tokens weigh fully."""

import random

import pytest

pytest.importorskip("faker")
pytest.importorskip("xkcdpass")

from tiny import chat_tokenizer

from deltamem.train.data.told.batches import Renderer, held_out_episodes, training_batches
from deltamem.train.data.told.dialogues import UNKNOWN, Mix, sample_dialogue
from deltamem.train.data.told.relations import put, relations
from deltamem.train.data.told.values import held_out, members, sample_value

STAGE = {"updates": 3, "questions": 12, "facts": [1, 3], "corrected": 0.3, "unknown": 0.3}


def test_the_world_is_open():
    open_values = {value for kind in ("first", "last", "city", "word") for value in members(kind)}
    assert len(open_values) >= 30_000
    assert len(relations()) >= 60
    assert len(relations(held=True)) >= 8
    assert not {r.name for r in relations()} & {r.name for r in relations(held=True)}


def test_training_never_meets_what_is_held_out():
    rng = random.Random(0)
    told = {relation.tell[-1].replace("{v}", "") for relation in relations()}
    for _ in range(300):
        dialogue = sample_dialogue(rng, Mix(facts=(1, 4)))
        for question in dialogue.questions:
            fact = question.fact
            assert fact is not None
            assert not fact.relation.held
            assert not (fact.subject and held_out(fact.subject))
            assert question.ask != put(fact.relation.ask[-1], subject=fact.subject)
            assert put(fact.relation.tell[-1], value=fact.value) not in {m["content"] for m in dialogue.messages}
    assert told


@pytest.mark.parametrize("split", ["known", "values", "relations"])
def test_a_split_holds_out_what_it_says(split):
    rng = random.Random(1)
    for _ in range(100):
        dialogue = sample_dialogue(rng, Mix(facts=(2, 2)), split)
        for question in dialogue.questions:
            fact = question.fact
            assert fact.relation.held == (split == "relations")
            assert question.ask.startswith(put(fact.relation.ask[-1], subject="§").split("§")[0][:3])
            if split == "values":
                assert held_out(fact.value)
            assert not fact.subject or held_out(fact.subject)


def test_values_of_a_closed_kind_have_none_that_are_unseen():
    with pytest.raises(ValueError, match="no values that are held out"):
        sample_value(random.Random(0), "colour", unseen=True)


def test_sentences_agree_with_who_speaks_and_of_whom():
    home = next(relation for relation in relations() if relation.name == "home")
    assert put(home.tell[0], value="Lisbon") == "I live in Lisbon."
    assert put(home.tell[0], value="Lisbon", subject="my sister Ana") == "My sister Ana lives in Lisbon."
    assert put(home.ask[0], subject="Ana") == "Where does Ana live?"
    assert put(home.answer, value="Lisbon", speaker="assistant") == "You live in Lisbon."
    job = next(relation for relation in relations() if relation.name == "job")
    assert put(job.answer, value="editor", subject="Ana", speaker="assistant") == "Ana works as an editor."


def test_a_correction_is_what_counts():
    rng = random.Random(2)
    for _ in range(50):
        dialogue = sample_dialogue(rng, Mix(facts=(2, 2), corrected=1.0))
        text = " ".join(message["content"] for message in dialogue.messages)
        for question in dialogue.questions:
            assert text.rfind(question.fact.value) > text.find(question.fact.replaces) >= 0
            assert question.answer != UNKNOWN


def test_only_the_value_weighs_fully_and_the_opening_is_never_written():
    tokenizer = chat_tokenizer()
    renderer = Renderer(tokenizer, lead=0.1)
    dialogue = sample_dialogue(random.Random(3), Mix(open_values=0.0))
    question = dialogue.questions[0]
    query = renderer.query(question)
    full = "".join(tokenizer.decode([i]) for i, w in zip(query.ids, query.weights, strict=True) if w == 1.0)
    assert question.value in full
    answer = "".join(tokenizer.decode([i]) for i, w in zip(query.ids, query.weights, strict=True) if w > 0)
    assert question.answer in answer
    opened = renderer.query(question, None)
    written = tokenizer.decode(renderer.history(dialogue.messages).ids)
    if renderer.opening:
        assert renderer.opening.strip() in tokenizer.decode(opened.ids)
        assert renderer.opening.strip() not in written
    assert dialogue.messages[0]["content"] in written


def test_batches_follow_from_their_seed_and_stages():
    tokenizer = chat_tokenizer()
    batches = training_batches(tokenizer, stages=[STAGE, {**STAGE, "facts": [4, 4]}], parts=2, seed=5)
    again = training_batches(tokenizer, stages=[STAGE, {**STAGE, "facts": [4, 4]}], parts=2, seed=5)
    assert len(batches) == 12
    assert (batches[7].queries.ids == again[7].queries.ids).all()
    assert batches[7].episode_of.bincount().min() >= 4
    assert batches[0].queries.ids.shape != batches[1].queries.ids.shape or batches[0].rows
    with pytest.raises(ValueError, match="no fact; its keys are"):
        training_batches(tokenizer, stages=[{"updates": 1, "questions": 1, "fact": 1}])


def test_held_out_episodes_ask_for_every_fact():
    episodes = held_out_episodes(chat_tokenizer(), split="values", facts=3, dialogues=2)
    assert len(episodes) == 2
    assert all(len(episode.queries) == 3 for episode in (episodes[0], episodes[1]))
