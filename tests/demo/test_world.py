"""The toy world: deterministic, large enough, and with a test split that training never sees."""

import random
import re

import pytest

from deltamem.demo.lessons import sample_lesson
from deltamem.demo.lexicon import lexicon, render
from deltamem.demo.world import (
    UNKNOWN,
    USER,
    Dialogue,
    chat,
    held_out_facts,
    sample_dialogue,
    unanswerable_question,
)


def dialogues(split: str, count: int = 300) -> list[Dialogue]:
    rng = random.Random(5)
    return [
        sample_dialogue(rng, facts=1 + index % 16, corrections=index % 2, small_talk=index % 4, split=split)
        for index in range(count)
    ]


def contains(text: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def test_is_large_enough() -> None:
    attributes = lexicon().attributes.values()
    values = [value for attribute in attributes for value in attribute.values]
    assert len(attributes) >= 24
    assert len(set(values)) == len(values) >= 800
    assert any(" " in value for value in values)
    assert all(len(attribute.tell) >= 4 and len(attribute.ask) >= 3 for attribute in attributes)
    assert len(lexicon().corrections) >= 4


def test_same_seed_same_dialogue() -> None:
    def once(seed: int) -> Dialogue:
        return sample_dialogue(random.Random(seed), facts=6, corrections=2, small_talk=2, split="test")

    assert once(3) == once(3) != once(4)
    assert held_out_facts(7, 5) == held_out_facts(7, 5)


def test_dialogue_has_the_parts_asked_for() -> None:
    dialogue = sample_dialogue(random.Random(0), facts=8, corrections=3, small_talk=2)
    assert [message.role for message in dialogue.messages] == ["user", "assistant"] * 13
    assert len(dialogue.facts) == len(dialogue.questions) == 8
    assert sum(bool(fact.replaces) for fact in dialogue.facts) == 3
    assert len({(fact.subject, fact.attribute) for fact in dialogue.facts}) == 8
    with pytest.raises(ValueError, match="corrections"):
        sample_dialogue(random.Random(0), facts=1, corrections=2)


def test_the_last_word_counts() -> None:
    for dialogue in dialogues("test"):
        said = [message.text for message in dialogue.messages]
        for fact, question in zip(dialogue.facts, dialogue.questions, strict=True):
            assert question.fact == fact
            assert question.answer == f"{fact.value}."
            assert contains(fact.tell, fact.value)
            told = said.index(fact.tell)
            if fact.replaces:
                assert any(contains(text, fact.replaces) for text in said[:told])


def test_most_facts_are_about_the_user() -> None:
    facts = [fact for dialogue in dialogues("train") for fact in dialogue.facts]
    share = sum(fact.subject == USER for fact in facts) / len(facts)
    assert 0.68 < share < 0.78
    assert all(len({fact.subject for fact in dialogue.facts} - {USER}) <= 2 for dialogue in dialogues("train"))


def test_only_the_telling_message_holds_the_value() -> None:
    for dialogue in dialogues("train"):
        values = {fact.value for fact in dialogue.facts}
        for message in dialogue.messages:
            if message.role == "assistant":
                assert not any(contains(message.text, value) for value in values)


def test_acks_and_small_talk_hold_no_value_of_any_attribute() -> None:
    words = lexicon()
    values = [value for attribute in words.attributes.values() for value in attribute.values]
    any_value = re.compile(rf"\b({'|'.join(map(re.escape, values))})\b", re.IGNORECASE)
    said = [message.text for message in chat(random.Random(0), 400)]
    for text in {*words.acks, *words.correction_acks, *said}:
        assert not any_value.search(text), text


def told(text: str, subject: str) -> str:
    """A telling message with the name of its subject replaced, as the phrasing it came from."""
    return re.sub(rf"(my \w+ )?{subject}", "X", text, flags=re.IGNORECASE) if subject != USER else text


def test_splits_share_no_name_and_no_phrasing_of_a_value() -> None:
    words = lexicon()
    assert not set(words.names["train"]) & set(words.names["test"])
    for attribute in words.attributes.values():
        for value in attribute.values:
            train, test = attribute.tells(value, "train"), attribute.tells(value, "test")
            assert train
            assert test
            assert not set(train) & set(test)
    assert _subjects("train").isdisjoint(_subjects("test"))
    train = {(fact.subject == USER, told(fact.tell, fact.subject)) for d in dialogues("train") for fact in d.facts}
    test = {(fact.subject == USER, told(fact.tell, fact.subject)) for d in dialogues("test") for fact in d.facts}
    assert len(train) > 1000
    assert not train & test


def _subjects(split: str) -> set[str]:
    return {fact.subject for dialogue in dialogues(split) for fact in dialogue.facts} - {USER}


def test_lessons_never_hold_a_held_out_name_or_telling() -> None:
    held_out = {
        render(template, value=value).lower()
        for attribute in lexicon().attributes.values()
        for value in attribute.values
        for template in attribute.tells(value, "test")
    }
    names = set(lexicon().names["test"])
    rng = random.Random(1)
    for _ in range(300):
        for turn in sample_lesson(rng, 16):
            assert turn.message.text.lower() not in held_out
            assert not names & set(re.findall(r"\w+", turn.message.text))


def test_unanswerable_questions_ask_what_was_not_told() -> None:
    rng = random.Random(2)
    for dialogue in dialogues("test", 50):
        question = unanswerable_question(rng, dialogue.facts, dialogue.people, "test")
        assert question.answer == UNKNOWN
        assert question.fact is None
        assert question.ask.endswith("?")


def test_facts_and_questions_keep_to_the_attributes_given() -> None:
    rng, chosen = random.Random(3), ("codeword", "tree")
    for _ in range(40):
        dialogue = sample_dialogue(rng, facts=2, corrections=1, attributes=chosen)
        assert {fact.attribute for fact in dialogue.facts} <= set(chosen)
        unknown = unanswerable_question(rng, dialogue.facts, dialogue.people, "train", chosen)
        assert re.search("password|secret word|Which word|tree", unknown.ask)
    with pytest.raises(ValueError, match="no attribute 'shoes'; there are: city, "):
        sample_dialogue(rng, facts=1, attributes=["shoes"])
    with pytest.raises(ValueError, match="3 facts with 0 corrections of 2 attributes"):
        sample_dialogue(rng, facts=3, attributes=chosen)


def test_rendered_text_is_complete() -> None:
    for dialogue in (*dialogues("train", 100), *dialogues("test", 100)):
        for text in [message.text for message in dialogue.messages] + [q.ask for q in dialogue.questions]:
            assert not set("{}|") & set(text)
            assert text[0].isupper()


def test_held_out_facts_are_told_asked_and_answered() -> None:
    for fact in held_out_facts(0, 20):
        assert set(fact) == {"tell", "ask", "answer"}
        assert contains(fact["tell"], fact["answer"].rstrip("."))
